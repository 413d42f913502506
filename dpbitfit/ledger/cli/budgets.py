"""Commands about budgets: open an account, look at it, change its budget."""

from typing import Annotated

import typer

from dpbitfit.accounting.mechanism import merged
from dpbitfit.errors import InputError
from dpbitfit.ledger import begin, status
from dpbitfit.ledger.cli import terminal
from dpbitfit.ledger.cli.options import (
    AsJson,
    OneAccount,
    Reason,
    Url,
    parse_name,
    progress,
    with_user,
)
from dpbitfit.ledger.fold import total
from dpbitfit.ledger.ledger import Ledger
from dpbitfit.ledger.reader import Reader


def init(
    ledger: Url,
    account: Annotated[str, typer.Argument(metavar="[ACCOUNT]", help="A first account.")] = "",
    epsilon: Annotated[float, typer.Option(help="The account's budget.")] = 0.0,
    delta: Annotated[float, typer.Option(help="The account's delta, for good.")] = 1e-5,
    lost: Annotated[
        bool, typer.Option("--lost", help="Its ledger is lost: count all of the budget as spent.")
    ] = False,
    reason: Annotated[str, typer.Option(help="With --lost: what happened; it is recorded.")] = "",
    json_output: AsJson = False,
) -> None:
    """Make a ledger, and an account in it; what is there already stays.

    After --lost no plan fits the account until its budget is raised.
    """
    name = parse_name(account) if account else None
    if name and epsilon <= 0:
        raise InputError("give the account's budget with --epsilon")
    if lost and not (name and reason.strip()):
        raise InputError("name the account whose ledger is lost, and say why with --reason")
    # Before there is a ledger: a guard that found the account without it would spend it again.
    spent = begin.whole_budget(epsilon, delta) if lost else {}
    opened = terminal.until_the_end(Ledger(ledger, create=True))
    was_there = any(known.name == name for known in opened.accounts())
    first = opened.open_account(name, delta, epsilon, spent, reason) if name else None
    if first and first.budget != epsilon:
        raise InputError(
            f"account {name} is there, with a budget of {first.budget:g}; change it with: "
            "ledger set-budget"
        )
    if first and lost and was_there:  # with whatever it holds; a new one holds the loss already
        opened.rebase(first.name, spent, "", reason)
    result = {"ledger": opened.id, "account": str(name or "")}
    terminal.show(result, f"ledger {opened.id} at {opened.database}", json_output)


def accounts(
    ledger: Url,
    quick: Annotated[
        bool, typer.Option("--quick/--tight", help="Do not compute the smallest bounds first.")
    ] = False,
    json_output: AsJson = False,
) -> None:
    """List every account: budget, guaranteed and accrued epsilon, what is left.

    Guaranteed is a bound; accrued is informative, what was spent of it.
    """
    reader = terminal.until_the_end(Reader(ledger))
    if quick:
        statuses = status.budget_statuses(reader)
    else:
        each = progress(reader.accounts(), "computing")
        statuses = [status.budget_status(reader, account) for account in each]
    result = [terminal.describe_status(budget) for budget in statuses]
    terminal.show(result, terminal.accounts_table(statuses), json_output)


def show(
    account: OneAccount,
    ledger: Url,
    events: Annotated[
        int, typer.Option(min=0, max=10**6, help="How many of the last events.")
    ] = 10,
    json_output: AsJson = False,
) -> None:
    """Show one account: its figures, their curve over delta, its runs and last events."""
    reader = terminal.until_the_end(Reader(ledger))
    chosen = reader.account(parse_name(account))
    budget = status.budget_status(reader, chosen)
    curve = status.stored_curve(reader, chosen)
    runs = reader.runs(chosen)
    last = reader.events(chosen.name, after=max(0, chosen.sequence - events), most=events)
    result = {
        **terminal.describe_status(budget),
        "curve": status.describe_bounds(curve),
        "runs": [status.describe_run(run) for run in runs],
        "events": [vars(event) for event in last],
    }
    terminal.show(result, terminal.account_page(budget, curve, runs, last), json_output)


def set_budget(
    account: OneAccount, epsilon: float, ledger: Url, reason: Reason, json_output: AsJson = False
) -> None:
    """Give an account another budget.

    Where more was approved than it allows, what is left of every approval is taken back,
    by an event that is recorded with the reason; what was spent stays spent. A budget that
    is raised again brings nothing back: a new run is approved anew.
    """
    if not reason.strip():
        raise InputError("say why, with --reason")
    opened = terminal.until_the_end(Ledger(ledger))
    before = opened.account(parse_name(account))
    voided = total(opened.allotments([before.id])[before.id], "voided")
    after = opened.set_budget(before.name, epsilon, with_user(reason))
    more = total(opened.allotments([before.id])[before.id], "voided") - voided
    taken_back = merged(more.items())
    text = f"{account}: budget {before.budget:g} -> {after.budget:g}"
    if taken_back:
        steps = sum(count for _, count in taken_back)
        text += f"; more was approved: the {steps} steps that are left of it are taken back"
    result = {"account": account, "before": before.budget, "budget": after.budget}
    given_up = status.describe_counts(taken_back)
    terminal.show({**result, "steps_given_up": given_up}, text, json_output)
