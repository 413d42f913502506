"""``dpbitfit ledger``: look at budgets, change them, check them, move them.

Exit codes: 0 done; 2 bad input, or refused; 3 over budget; 4 the ledger cannot be
read, written or believed. Results go to standard output, the rest to standard error.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import track

from dpbitfit.accounting.composition import merged
from dpbitfit.errors import BudgetError, InputError
from dpbitfit.ledger import begin, repair, status, terminal
from dpbitfit.ledger import export as exporting
from dpbitfit.ledger.backup import back_up
from dpbitfit.ledger.budget import Account
from dpbitfit.ledger.database import Database
from dpbitfit.ledger.events import AccountName, total
from dpbitfit.ledger.forecast import forecast
from dpbitfit.ledger.heads import Heads
from dpbitfit.ledger.ledger import Ledger
from dpbitfit.ledger.reader import Reader
from dpbitfit.ledger.schema import REVISION
from dpbitfit.ledger.verify import check_whole

app = typer.Typer(
    help="Budgets of every site: what was promised, what is spent, what is left.\n\n"
    "Exit codes: 0 done; 2 bad input, or refused; 3 over budget; 4 the ledger cannot be "
    "read, written or believed.",
    no_args_is_help=True,
)

Url = Annotated[
    str,
    typer.Option("--ledger", envvar="DPBITFIT_LEDGER", help="SQLite file, or PostgreSQL URL."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
One = Annotated[str, typer.Argument(metavar="ACCOUNT", help="SITE/DATASET/UNIT")]
Each = Annotated[str, typer.Argument(metavar="[ACCOUNT]", help="SITE/DATASET/UNIT; else all.")]
Reason = Annotated[str, typer.Option(help="Why; it is recorded.")]


@app.command()
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
    name = _name(account) if account else None
    if name and epsilon <= 0:
        raise InputError("give the account's budget with --epsilon")
    if lost and not (name and reason.strip()):
        raise InputError("name the account whose ledger is lost, and say why with --reason")
    book = Ledger(ledger, create=True)
    opened = book.open_account(name, delta, epsilon) if name else None
    if opened and opened.budget != epsilon:
        raise InputError(
            f"account {name} is there, with a budget of {opened.budget:g}; change it with: "
            "ledger set-budget"
        )
    if lost and opened:
        begin.write_off(book, opened, reason)
    told = {"ledger": book.id, "account": str(name or "")}
    terminal.show(told, f"ledger {book.id} at {book.database}", json_output)


@app.command()
def accounts(
    ledger: Url,
    tight: Annotated[
        bool, typer.Option(help="Compute the smallest bound where only a quick one is known.")
    ] = False,
    json_output: AsJson = False,
) -> None:
    """List every account: budget, guaranteed and accrued epsilon, what is left.

    Guaranteed is a bound; accrued is informative, what was spent of it.
    """
    book = Reader(ledger)
    if tight:
        listed = [status.standing(book, one) for one in _progress(book.accounts(), "computing")]
    else:
        listed = status.standings(book)
    told = [terminal.describe_standing(one) for one in listed]
    terminal.show(told, terminal.accounts_table(listed), json_output)


@app.command()
def show(
    account: One,
    ledger: Url,
    events: Annotated[int, typer.Option(min=0, help="How many of the last events.")] = 10,
    json_output: AsJson = False,
) -> None:
    """Show one account: its figures, their curve over delta, its runs and last events."""
    book = Reader(ledger)
    found = book.account(_name(account))
    standing = status.standing(book, found)
    curve = status.curve(book, found)
    runs = status.run_standings(book, found)
    last = book.events(found.name, after=max(0, found.sequence - events), most=events)
    told = {
        **terminal.describe_standing(standing),
        "curve": status.describe_bounds(curve),
        "runs": [status.describe_run(run) for run in runs],
        "events": [vars(event) for event in last],
    }
    terminal.show(told, terminal.account_page(standing, curve, runs, last), json_output)


@app.command("set-budget")
def set_budget(
    account: One, epsilon: float, ledger: Url, reason: Reason, json_output: AsJson = False
) -> None:
    """Give an account another budget.

    Where more was approved than it allows, what is left of every approval is taken back,
    by an event that is recorded with the reason; what was spent stays spent. A budget that
    is raised again brings nothing back: a new run is approved anew.
    """
    if not reason.strip():
        raise InputError("say why, with --reason")
    book = Ledger(ledger)
    found = book.account(_name(account))
    voided = total(book.holdings([found.id])[found.id], "voided")
    before, after = found.budget, book.set_budget(found.name, epsilon, reason).budget
    taken = merged((total(book.holdings([found.id])[found.id], "voided") - voided).items())
    told = {"account": account, "before": before, "budget": after}
    text = f"{account}: budget {before:g} -> {after:g}"
    if taken:
        steps = sum(count for _, count in taken)
        text += f"; more was approved: the {steps} steps that are left of it are taken back"
    given_up = status.describe_counts(taken)
    terminal.show({**told, "steps_given_up": given_up}, text, json_output)


@app.command()
def plan(
    account: One,
    ledger: Url,
    sampling_rate: Annotated[float, typer.Option(help="Poisson rate of a unit at a step.")],
    steps: Annotated[int, typer.Option(min=1, max=10**8, help="Noisy steps in all.")],
    noise_multiplier: Annotated[
        float, typer.Option(help="To see what it costs; 0: only what fits.")
    ] = 0.0,
    json_output: AsJson = False,
) -> None:
    """Say what a plan would cost beside all that is there, and which noise would fit."""
    book = Reader(ledger)
    made = forecast(book, book.account(_name(account)), sampling_rate, steps, noise_multiplier)
    budget, fitting = made.account.budget, made.fitting_noise_multiplier
    told: dict[str, Any] = {"account": account, "budget": budget, "delta": made.account.delta}
    told["fitting_noise_multiplier"] = fitting
    text = "no noise multiplier fits" if fitting is None else f"noise multiplier {fitting:g} fits"
    text = f"{steps} steps at rate {sampling_rate:g}, budget {budget:g}: {text}"
    if made.approved:
        told |= {"noise_multiplier": noise_multiplier, "approved": dict(vars(made.approved))}
        text += f"\nwith {noise_multiplier:g}, all that is approved would take "
        text += terminal.bound_text(made.approved)
    terminal.show({**told, "fits": made.fits}, text, json_output)
    if not made.fits:
        raise BudgetError(f"account {account}: this plan does not fit its budget")


@app.command()
def verify(ledger: Url, account: Each = "", json_output: AsJson = False) -> None:
    """Add up chain, balances and figures again, from the events alone."""
    book = Reader(ledger)
    if not account:
        with book.database.read() as connection:
            check_whole(connection)
    chosen = _chosen(book, account)
    tallies = []
    standings = []
    for one in _progress(chosen, "verifying"):
        tallies.append(book.verify(one))
        standings.append(status.recomputed(book, one, tallies[-1].held))
    told = [{**terminal.describe_standing(one), "verified": True} for one in standings]
    terminal.show(told, terminal.verified_text(standings, tallies), json_output)


@app.command()
def export(
    ledger: Url,
    account: Each = "",
    report: Annotated[
        bool, typer.Option("--report", help="A report for others, instead of the events.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="File to write; else standard output.")] = None,
    json_output: AsJson = False,
) -> None:
    """Print events as lines of JSON, or a report; the output is JSON in any case."""
    book = Reader(ledger)
    chosen = _chosen(book, account)
    if report:
        made = [exporting.report(book, one.name) for one in _progress(chosen, "reporting")]
        _write([terminal.to_json(made[0] if account else made)], out)
    else:
        named = _progress(chosen, "exporting")
        _write((line for one in named for line in exporting.lines(book, one.name)), out)


@app.command("import")
def import_(
    file: Annotated[str, typer.Argument(help="Lines that export has written.")],
    ledger: Url,
    json_output: AsJson = False,
) -> None:
    """Add exported events: all of them, verified, or none."""
    book = Ledger(ledger)
    with book.claim():
        added = exporting.import_events(book, exporting.read_lines(file))
    found = [book.account(name) for name in added]
    told = [
        {"account": str(one.name), "added": added[one.name], **terminal.describe_chain(one)}
        for one in found
    ]
    text = f"{sum(added.values())} new events in {len(added)} accounts"
    terminal.show(told, text, json_output)


@app.command()
def backup(
    out: Annotated[Path, typer.Argument(help="The file to make; it must not be there yet.")],
    ledger: Url,
    json_output: AsJson = False,
) -> None:
    """Copy a ledger that may be at work, and verify the copy. It holds the signing key too."""
    book = Reader(ledger)
    back_up(book, out)
    told = {"ledger": book.id, "copy": str(out)}
    terminal.show(told, f"{out}: a verified copy of ledger {book.id}", json_output)


@app.command()
def statement(
    account: Annotated[str, typer.Argument(metavar="ACCOUNT", help="SITE/DATASET/UNIT, or SITE.")],
    ledger: Url,
    coordinator: Annotated[
        str, typer.Option(help="Whose runs, by key; at a site with several coordinators.")
    ] = "",
    out: Annotated[Path | None, typer.Option(help="File to write; else standard output.")] = None,
) -> None:
    """Say what is recorded of every run, signed, for the other side's: settle --rebase --from."""
    book = Ledger(ledger)
    chosen = [one for one in book.accounts() if account in (str(one.name), one.name.site)]
    if not chosen:
        raise InputError(f"there is no account of {account}")
    lines = []
    for one in chosen:
        known = repair.coordinators(book, one)
        whose = coordinator or (known[0] if len(known) == 1 else "")
        if len(known) > 1 and not coordinator:
            raise InputError(f"choose one with --coordinator: {', '.join(known)}")
        if whose in known:
            lines.append(repair.statement(book, one, whose))
    _write(lines, out)


@app.command()
def migrate(ledger: Url, json_output: AsJson = False) -> None:
    """Bring a ledger of an older version to this one's form."""
    Database(ledger, upgrade=True).close()
    terminal.show({"tables": REVISION}, f"tables are of form {REVISION}", json_output)


@app.command()
def settle(
    ledger: Url,
    account: Each = "",
    rebase: Annotated[
        bool, typer.Option("--rebase", help="Take over the other side's higher counts.")
    ] = False,
    stated: Annotated[
        list[Path] | None,
        typer.Option("--from", help="The other side's statement: ledger statement."),
    ] = None,
    state_directory: Annotated[
        Path | None,
        typer.Option(help="Of a guard's policy, if it names one: what the ledger held before."),
    ] = None,
    void: Annotated[str, typer.Option(metavar="RUN", help="Give up the rest of a run.")] = "",
    reason: Reason = "settled by an operator",
    json_output: AsJson = False,
) -> None:
    """Count what dead runs left reserved as spent; no run may be at work on the ledger.

    After a backup was restored: --rebase on both sides.
    """
    if stated and not rebase:
        raise InputError("--from goes with --rebase")
    book = Ledger(ledger)
    told = []
    heads = Heads(state_directory) if state_directory else Heads.beside(ledger)
    with book.claim():
        behind = heads.lost(book)[1] if rebase and heads else {}
        if behind and account:
            raise InputError("more than one account may have lost events: leave ACCOUNT out")
        for name, kept in behind.items():
            book.open_account(name, kept.delta, kept.budget)
        for file in stated or ():
            list(repair.hear(book, exporting.read_lines(str(file))))
        chosen = _chosen(book, account)
        left = book.settle("settled", chosen[0].id if account else None)
        for one in _progress(chosen, "settling"):
            given_up = book.void_rest(one.name, void) if void else ()
            once = behind[one.name].runs if one.name in behind else None
            raised = repair.rebase(book, one, reason, once) if rebase else None
            rounds = sum(r.account_id == one.id for r in left)
            if rounds or given_up or raised is not None:
                taken_over = merged(pair for run in raised or () for pair in run.steps)
                told.append(
                    {
                        "account": str(one.name),
                        "rounds_committed": rounds,
                        "steps_given_up": status.describe_counts(given_up),
                        "steps_taken_over": status.describe_counts(taken_over),
                        "rebased": raised is not None,
                        "runs": [
                            {**run._asdict(), "steps": status.describe_counts(run.steps)}
                            for run in raised or ()
                        ],
                    }
                )
        if behind and heads:
            heads.write(book)
    terminal.show(told, terminal.settled_text(told, rebase), json_output)


def _name(text: str) -> AccountName:
    parts = text.split("/")
    if len(parts) != 3 or not all(parts):
        raise InputError(f"an account is named SITE/DATASET/UNIT, not {text!r}")
    return AccountName(*parts)


def _chosen(book: Reader, account: str) -> list[Account]:
    return [book.account(_name(account))] if account else book.accounts()


def _progress(chosen: Sequence[Account], what: str) -> Any:
    """The accounts, with a bar on standard error where they are many."""
    return track(chosen, what, console=terminal.errors, disable=len(chosen) < 2, transient=True)


def _write(written: Any, out: Path | None) -> None:
    if out is None:
        for line in written:
            typer.echo(line)
        return
    draft = out.with_name(f"{out.name}.new")
    try:
        with open(draft, "w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in written)
        os.replace(draft, out)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror})") from error
