"""Commands that move what a ledger holds: export, import, backup, statement, migrate."""

from pathlib import Path
from typing import Annotated

import typer

from dpbitfit.errors import InputError
from dpbitfit.ledger import export as exporting
from dpbitfit.ledger import importing, repair
from dpbitfit.ledger.backup import back_up
from dpbitfit.ledger.cli import terminal
from dpbitfit.ledger.cli.options import (
    AsJson,
    EachAccount,
    Out,
    Url,
    chosen_accounts,
    progress,
    write_lines,
)
from dpbitfit.ledger.database import Database
from dpbitfit.ledger.ledger import Ledger
from dpbitfit.ledger.reader import Reader
from dpbitfit.ledger.schema import REVISION


def export(
    ledger: Url,
    account: EachAccount = "",
    report: Annotated[
        bool, typer.Option("--report", help="A report for others, instead of the events.")
    ] = False,
    out: Out = None,
    json_output: AsJson = False,
) -> None:
    """Print events as JSON Lines, or a report; the output is JSON in any case."""
    reader = terminal.until_the_end(Reader(ledger))
    accounts = chosen_accounts(reader, account)
    if report:
        each = progress(accounts, "reporting")
        reports = [exporting.report(reader, chosen.name) for chosen in each]
        write_lines([terminal.to_json(reports[0] if account else reports)], out)
    else:
        each = progress(accounts, "exporting")
        lines = (line for chosen in each for line in exporting.lines(reader, chosen.name))
        write_lines(lines, out)


def import_(
    file: Annotated[str, typer.Argument(help="Lines that export has written.")],
    ledger: Url,
    json_output: AsJson = False,
) -> None:
    """Add exported events: all of them, verified, or none."""
    opened = terminal.until_the_end(Ledger(ledger))
    with opened.claim():
        added = importing.import_events(opened, importing.read_lines(file))
    accounts = [opened.account(name) for name in added]
    result = [
        {
            "account": str(account.name),
            "added": added[account.name],
            **terminal.describe_chain(account),
        }
        for account in accounts
    ]
    text = f"{sum(added.values())} new events in {len(added)} accounts"
    terminal.show(result, text, json_output)


def backup(
    out: Annotated[Path, typer.Argument(help="The file to make; it must not be there yet.")],
    ledger: Url,
    json_output: AsJson = False,
) -> None:
    """Copy a ledger that may be at work, and verify the copy. It holds the signing key too."""
    reader = terminal.until_the_end(Reader(ledger))
    back_up(reader, out)
    result = {"ledger": reader.id, "copy": str(out)}
    terminal.show(result, f"{out}: a verified copy of ledger {reader.id}", json_output)


def statement(
    account: Annotated[str, typer.Argument(metavar="ACCOUNT", help="SITE/DATASET/UNIT, or SITE.")],
    ledger: Url,
    coordinator: Annotated[
        str, typer.Option(help="Whose runs, by key; at a site with several coordinators.")
    ] = "",
    out: Out = None,
) -> None:
    """State what is recorded of every run, signed, for the other side's: settle --rebase --from."""
    opened = terminal.until_the_end(Ledger(ledger))
    accounts = [
        chosen for chosen in opened.accounts() if account in (str(chosen.name), chosen.name.site)
    ]
    if not accounts:
        raise InputError(f"there is no account of {account}")
    lines = []
    for chosen in accounts:
        known = repair.coordinators(opened, chosen)
        if len(known) > 1 and not coordinator:
            raise InputError(f"choose one with --coordinator: {', '.join(known)}")
        owner = coordinator or next(iter(known), "")
        if owner in known:
            lines.append(repair.statement(opened, chosen, owner))
    if not lines:
        raise InputError(
            f"no such coordinator has had a part in {account}: let it take part in a run first, "
            "which will be refused"
        )
    write_lines(lines, out)


def migrate(ledger: Url, json_output: AsJson = False) -> None:
    """Bring a ledger of an older version to this one's form."""
    Database(ledger, upgrade=True).close()
    terminal.show({"tables": REVISION}, f"tables are of form {REVISION}", json_output)
