"""What the ledger's command line prints: tables for people, JSON for programs."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import click
import typer
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from dpbitfit.accounting.composition import Bound
from dpbitfit.accounting.mechanism import Counts
from dpbitfit.errors import LedgerError
from dpbitfit.ledger.account import Account
from dpbitfit.ledger.bounds import is_quick
from dpbitfit.ledger.canonical import number_to_text
from dpbitfit.ledger.encoding import read
from dpbitfit.ledger.events import Event
from dpbitfit.ledger.fold import AccountState
from dpbitfit.ledger.reader import Reader
from dpbitfit.ledger.runs import RunStatus
from dpbitfit.ledger.status import INFORMATIVE, BudgetStatus

Opened = TypeVar("Opened", bound=Reader)

errors = Console(stderr=True)
BAR = 16  # characters
BAR_LEGEND = (
    f"accrued is {INFORMATIVE}; █ accrued, ▒ approved, · left of the budget; "
    "≤ a quick figure, too high"
)


def show(result: Any, page: RenderableType, as_json: bool) -> None:
    """Print the result as JSON, or the page."""
    if as_json:
        typer.echo(to_json(result))
    else:
        Console().print(page, highlight=False, markup=False, soft_wrap=isinstance(page, str))


def to_json(result: Any) -> str:
    """Indented, and never a number that JSON does not have."""
    return json.dumps(result, indent=2, allow_nan=False)


def describe_status(status: BudgetStatus) -> dict[str, Any]:
    """An account's figures as JSON can hold them."""
    account = status.account
    return {
        "account": str(account.name),
        "delta": account.delta,
        "budget": account.budget,
        "guaranteed": status.guaranteed.describe(),
        "accrued": status.accrued.describe(),
        "left": status.left,
        **describe_chain(account),
    }


def describe_chain(account: Account) -> dict[str, Any]:
    """How many events an account has, and the hash of the last, as JSON can hold it."""
    return {"events": account.sequence, "chain_head": account.head}


def accounts_table(statuses: Sequence[BudgetStatus]) -> Table:
    """A line for each account, with a bar of its budget."""
    table = Table(caption=BAR_LEGEND)
    table.add_column("account", overflow="fold")
    for title in ("budget", "guaranteed", "accrued", "left", "delta", ""):
        table.add_column(title, no_wrap=True)
    for status in statuses:
        table.add_row(
            plain(str(status.account.name)),
            f"{status.account.budget:g}",
            short(status.guaranteed.bound),
            short(status.accrued.bound),
            f"{status.left:.3f}",
            f"{status.account.delta:g}",
            _bar(status),
        )
    return table


def account_page(
    status: BudgetStatus, curve: Sequence[Bound], runs: Sequence[RunStatus], last: Sequence[Event]
) -> Group:
    """All about one account."""
    account = status.account
    head = Table.grid(padding=(0, 2))
    head.add_row("account", plain(str(account.name)))
    head.add_row("budget", f"epsilon {account.budget:g} at delta {account.delta:g}", _bar(status))
    for title, figure in (("guaranteed", status.guaranteed), ("accrued", status.accrued)):
        head.add_row(title, bound_text(figure.bound), figure.basis)
    head.add_row("left", f"{status.left:.3f}")
    bounds = Table("delta", "guaranteed epsilon", "accountant")
    for bound in curve:
        bounds.add_row(f"{bound.delta:g}", f"{bound.epsilon:.3f}", bound.accountant)
    return Group(head, bounds, _runs_table(runs), _events_table(last))


def verified_text(statuses: Sequence[BudgetStatus], states: Sequence[AccountState]) -> str:
    """What was added up and compared, account by account."""
    lines = [
        f"{plain(str(state.name))}: {state.sequence} events in one chain; budget, "
        f"{len({run for run, _ in state.allotments})} runs, {len(state.rounds)} rounds and stored "
        f"figures agree with them; guaranteed {short(status.guaranteed.bound)} of "
        f"{status.account.budget:g}"
        for status, state in zip(statuses, states, strict=True)
    ]
    events = sum(state.sequence for state in states)
    return "\n".join([*lines, f"{len(lines)} accounts, {events} events: all as they should be"])


def settled_text(results: Sequence[Mapping[str, Any]], rebase: bool) -> str:
    """What an operator's settlement has changed."""
    if not results and rebase:
        return (
            "nothing to settle that this ledger knows of; where the other side reports a "
            "difference, take its statement: dpbitfit ledger settle --rebase --from FILE"
        )
    return "\n".join(line for result in results for line in _settled(result)) or "nothing to settle"


def _settled(result: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"{result['account']}: rounds counted as spent: {result['rounds_committed']}, "
        f"steps given up: {_steps(result['steps_given_up'])}, "
        f"steps taken over: {_steps(result['steps_taken_over'])}"
    )
    for run in result["runs"]:
        owner = f" of coordinator {run['coordinator'][:12]}" if run["coordinator"] else ""
        yield f"  run {plain(run['run'])}{owner}: {_steps(run['steps'])} steps taken over"
    if result["rebased"]:
        yield (
            "  this side now holds the larger count of every run; nothing is spent until the other "
            "side has run dpbitfit ledger settle --rebase as well"
        )


def bound_text(bound: Bound) -> str:
    """A bound with its delta and its accountant."""
    return (
        f"epsilon {bound.epsilon:.3f} at delta {bound.delta:g} "
        f"({bound.accountant}, {bound.version})"
    )


def short(bound: Bound) -> str:
    """A bound in a table; a quick one is marked."""
    return f"{'≤ ' if is_quick(bound) else ''}{bound.epsilon:.3f}"


def _bar(status: BudgetStatus) -> Text:
    accrued, approved = status.accrued.bound.epsilon, status.approved.epsilon
    return bar(accrued, approved, status.account.budget)


def _runs_table(runs: Sequence[RunStatus]) -> Table:
    table = Table("run", "plan", "steps allotted", "spent", "left", "rounds left", "approved")
    for run in runs:
        table.add_row(
            plain(run.run),
            plain(run.plan[:12]),
            _counts(run.allotted),
            str(sum(n for _, n in run.spent)),
            str(sum(n for _, n in run.left)),
            "?" if run.rounds_left is None else str(run.rounds_left),
            "after results were seen" if run.adaptive else "beforehand",
        )
    return table


def _events_table(events: Sequence[Event]) -> Table:
    table = Table("event", "kind", "at", "what", "hash")
    for event in events:
        at, facts = _facts(event)
        table.add_row(
            str(event.sequence),
            event.kind,
            plain(at),
            plain(facts),
            event.hash[:12],
        )
    return table


def _facts(event: Event) -> tuple[str, str]:
    """When an event was written, and what it says, as far as it can be read."""
    try:
        entry = read(event)
    except LedgerError:
        return "", "cannot be read"
    values = vars(entry.content)
    names = ("run", "round", "outcome", "budget", "reason")
    shown = {name: values[name] for name in names if values.get(name) is not None}
    if "budget" in shown:
        shown["budget"] = number_to_text(shown["budget"])
    return entry.at.isoformat(), ", ".join(f"{name} {value}" for name, value in shown.items())


def bar(accrued: float, approved: float, budget: float) -> Text:
    """Accrued, approved and left, as parts of the budget."""

    def cells(epsilon: float) -> int:
        return min(BAR, round(BAR * epsilon / budget))

    spent = cells(accrued)
    taken = max(spent, cells(approved))
    drawn = Text("█" * spent, style="red" if approved > budget else "green")
    drawn.append("▒" * (taken - spent), style="yellow")
    return drawn.append("·" * (BAR - taken), style="dim")


def plain(text: str) -> Text:
    """Text from outside, which must not steer a terminal."""
    return Text("".join(letter if letter.isprintable() else "?" for letter in str(text)))


def _counts(counts: Counts) -> str:
    return ", ".join(f"{steps} of {mechanism}" for mechanism, steps in counts)


def _steps(counts: Sequence[Mapping[str, Any]]) -> int:
    return sum(entry["steps"] for entry in counts)


def until_the_end(ledger: Opened) -> Opened:
    """A ledger that is closed when the command ends."""
    click.get_current_context().with_resource(ledger)
    return ledger
