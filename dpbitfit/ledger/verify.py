"""Adding up an account's events again, and comparing every other table with the result."""

from collections.abc import Iterable
from typing import NamedTuple

import sqlalchemy as sa

from dpbitfit.errors import LedgerError
from dpbitfit.ledger import queries, schema
from dpbitfit.ledger.account import Account, AccountName
from dpbitfit.ledger.database import RESTORE
from dpbitfit.ledger.events import Entry, Event
from dpbitfit.ledger.fold import AccountState, Allotment, Allotments, Round, replay

_COLUMNS = {
    "allotted": "steps approved:",
    "reserved": "steps reserved:",
    "committed": "steps spent:",
    "voided": "steps given up:",
    "adaptive": "chosen",
    "plan": "plan",
    "coordinator": "coordinator",
}


class History(NamedTuple):
    """All that ever happened to an account, verified: its events as stored and as read."""

    account: Account
    state: AccountState
    events: list[Event]
    entries: list[Entry]


def verify(connection: sa.Connection, name: AccountName) -> AccountState:
    """What an account's events add up to; LedgerError, naming the first row that is wrong."""
    account = _account(connection, name)
    state = replay(name, queries.events_of(connection, account.id))
    _compare(connection, account, state)
    return state


def history(connection: sa.Connection, name: AccountName) -> History:
    """``verify``, for a reader that needs the events too."""
    account = _account(connection, name)
    state = AccountState(name)
    events = list(queries.events_of(connection, account.id))
    entries = [state.add(event) for event in events]
    _compare(connection, account, state)
    return History(account, state, events, entries)


def check_whole(connection: sa.Connection) -> None:
    """LedgerError where pages of the file are lost, or events whose account is."""
    if connection.dialect.name == "sqlite":
        answer = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
        if answer != "ok":
            raise LedgerError(f"the ledger's file is damaged: {RESTORE}")
    known = sa.select(schema.account.c.id)
    column = schema.event.c.account_id
    lost = connection.scalar(sa.select(column).where(column.not_in(known)).limit(1))
    if lost is not None:
        raise LedgerError(f"account number {lost} has events, but its row is gone")


def _account(connection: sa.Connection, name: AccountName) -> Account:
    account = queries.find_account(connection, name)
    if account is None:
        raise LedgerError(f"account {name}: its row is gone")
    return account


def _compare(connection: sa.Connection, account: Account, state: AccountState) -> None:
    """LedgerError for the first row that is not what the events add up to."""
    name = account.name
    _compare_account(account, state)
    try:
        allotments = queries.allotments_of(connection, [account.id])[account.id]
        column = schema.reservation.c.account_id
        reservations = queries.reservations_of(connection, column, [account.id])
    except LedgerError as error:
        raise LedgerError(f"account {name}, {error}") from error
    _compare_allotments(state, allotments)
    _compare_causes(connection, account, state)
    rounds = {r.key: Round(r.state, r.run, r.round, r.counts, r.outcome) for r in reservations}
    for key in sorted(state.rounds.keys() | rounds.keys()):
        if state.rounds.get(key) != rounds.get(key):
            raise LedgerError(f"account {name}, round {key}: its events and its row disagree")


def _compare_account(account: Account, state: AccountState) -> None:
    by_events = (state.sequence, state.head, state.delta, state.budget, state.filter_order)
    by_row = (account.sequence, account.head, account.delta, account.budget, account.filter_order)
    if by_events != by_row:
        raise LedgerError(
            f"account {account.name}: its {state.sequence} events say other than its row, which "
            f"says {account.sequence} events and a budget of {account.budget:g}"
        )


def _compare_allotments(state: AccountState, allotments: Allotments) -> None:
    for place in sorted(state.allotments.keys() | allotments.keys()):
        by_events = state.allotments.get(place, Allotment())
        by_row = allotments.get(place, Allotment())
        if by_events != by_row:
            run, mechanism = place
            differ = [key for key in _COLUMNS if vars(by_events)[key] != vars(by_row)[key]]
            raise LedgerError(
                f"account {state.name}, run {run}: its events say {_in_words(by_events, differ)}, "
                f"its row {_in_words(by_row, differ)} ({mechanism})"
            )


def _compare_causes(connection: sa.Connection, account: Account, state: AccountState) -> None:
    table = schema.event
    chosen = sa.select(table.c.coordinator).where(table.c.account_id == account.id)
    causes = connection.scalars(chosen.order_by(table.c.sequence)).all()
    for number, (by_events, by_row) in enumerate(zip(state.causes, causes, strict=True), 1):
        if by_events != by_row:
            raise LedgerError(
                f"account {account.name}, event {number}: its row names another coordinator"
            )


def _in_words(allotment: Allotment, columns: Iterable[str]) -> str:
    chosen = "after results" if allotment.adaptive else "beforehand"
    values = {**vars(allotment), "adaptive": chosen}
    return ", ".join(f"{_COLUMNS[name]} {values[name] or 'none'}" for name in columns)
