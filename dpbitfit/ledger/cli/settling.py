"""Commands that check a ledger, and settle it after a crash or a restored backup."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from dpbitfit.accounting.mechanism import Counts, merged
from dpbitfit.errors import InputError, LedgerError
from dpbitfit.ledger import importing, repair, status
from dpbitfit.ledger.account import Account, AccountName
from dpbitfit.ledger.cli import terminal
from dpbitfit.ledger.cli.options import (
    AsJson,
    EachAccount,
    Reason,
    Url,
    chosen_accounts,
    progress,
)
from dpbitfit.ledger.heads import AccountHead, Heads
from dpbitfit.ledger.ledger import Ledger
from dpbitfit.ledger.reader import Reader
from dpbitfit.ledger.verify import check_whole


def verify(ledger: Url, account: EachAccount = "", json_output: AsJson = False) -> None:
    """Add up chain, balances and figures again, from the events alone."""
    reader = terminal.until_the_end(Reader(ledger))
    if not account:
        with reader.database.read() as connection:
            check_whole(connection)
    states = []
    statuses = []
    for chosen in progress(chosen_accounts(reader, account), "verifying"):
        state = reader.verify(chosen)
        states.append(state)
        statuses.append(status.verified_status(reader, chosen, state.allotments))
    result = [{**terminal.describe_status(budget), "verified": True} for budget in statuses]
    terminal.show(result, terminal.verified_text(statuses, states), json_output)


def settle(
    ledger: Url,
    account: EachAccount = "",
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
    if state_directory and not state_directory.is_dir():
        raise InputError(f"{state_directory}: there is no such folder")
    opened = terminal.until_the_end(Ledger(ledger))
    heads = Heads(state_directory) if state_directory else Heads.beside(ledger)
    result = []
    with opened.claim():
        behind = heads.lost(opened)[1] if rebase and heads else {}
        if behind and account:
            raise InputError("more than one account may have lost events: leave ACCOUNT out")
        for name, head in behind.items():
            opened.open_account(name, head.delta, head.budget)
        heard = [
            ledger_id
            for file in stated or ()
            for _, ledger_id in repair.hear(opened, importing.read_lines(str(file)))
        ]
        failure: LedgerError | None = None
        accounts = chosen_accounts(opened, account)
        if void and not any(run.run == void for each in accounts for run in opened.runs(each)):
            raise InputError(f"no run {void} is known here")
        left = opened.settle("settled", accounts[0].id if account else None)
        for chosen in progress(accounts, "settling"):
            given_up = opened.void_rest(chosen.name, void) if void else ()
            raised = None
            try:
                raised = _rebase(opened, chosen, reason, behind, heard) if rebase else None
            except LedgerError as error:  # which has settled what it could
                failure = error
            rounds = sum(reservation.account_id == chosen.id for reservation in left)
            if rounds or given_up or raised is not None:
                result.append(_describe(chosen, rounds, given_up, raised))
        if behind and heads:
            heads.write(opened)
    if failure is not None:
        raise failure
    terminal.show(result, terminal.settled_text(result, rebase), json_output)


def _rebase(
    ledger: Ledger,
    account: Account,
    reason: str,
    behind: Mapping[AccountName, AccountHead],
    heard: list[str],
) -> list[repair.Raised] | None:
    known = behind[account.name].runs if account.name in behind else None
    return repair.rebase(ledger, account, reason, known, heard)


def _describe(
    account: Account, rounds: int, given_up: Counts, raised: list[repair.Raised] | None
) -> dict[str, Any]:
    """What was done to an account, as JSON can hold it."""
    taken_over = merged(pair for run in raised or () for pair in run.steps)
    return {
        "account": str(account.name),
        "rounds_committed": rounds,
        "steps_given_up": status.describe_counts(given_up),
        "steps_taken_over": status.describe_counts(taken_over),
        "rebased": raised is not None,
        "runs": [
            {**run._asdict(), "steps": status.describe_counts(run.steps)} for run in raised or ()
        ],
    }
