"""Believing nothing but the events: they are added up again and compared with the tables."""

from collections.abc import Iterable

import sqlalchemy as sa

from dpbitfit.errors import LedgerError
from dpbitfit.ledger import queries, schema
from dpbitfit.ledger.events import AccountName, Event, Held, Round, Tally, canonical, replay

_WORDS = {
    "allotted": "steps approved:",
    "reserved": "steps reserved:",
    "committed": "steps spent:",
    "voided": "steps given up:",
    "adaptive": "chosen",
    "plan": "plan",
    "coordinator": "coordinator",
}


def verify(
    connection: sa.Connection, name: AccountName, events: Iterable[Event] | None = None
) -> Tally:
    """What an account's events add up to; LedgerError, naming the first row that is wrong.

    ``events`` are all of the account's, for whoever has read them in this transaction.
    """
    account = queries.find_account(connection, name)
    if account is None:
        raise LedgerError(f"account {name}: its row is gone")
    if events is None:
        events = queries.events_of(connection, account.id)
    tally = replay(name, events)
    told = (tally.sequence, tally.head, tally.delta, tally.budget, tally.filter_order)
    kept = (account.sequence, account.head, canonical(account.delta), canonical(account.budget))
    if told != (*kept, account.filter_order):
        raise LedgerError(
            f"account {name}: its {tally.sequence} events say other than its row, which says "
            f"{account.sequence} events and a budget of {account.budget:g}"
        )
    try:
        holdings = queries.holdings_of(connection, [account.id])[account.id]
        column = schema.reservation.c.account_id
        reservations = queries.reservations_of(connection, column, [account.id])
    except LedgerError as error:
        raise LedgerError(f"account {name}, {error}") from error
    for place in sorted(tally.held.keys() | holdings.keys()):
        by_events, by_table = tally.held.get(place, Held()), holdings.get(place, Held())
        if by_events != by_table:
            run, mechanism = place
            differ = [key for key in _WORDS if vars(by_events)[key] != vars(by_table)[key]]
            said, stands = (_in_words(held, differ) for held in (by_events, by_table))
            raise LedgerError(
                f"account {name}, run {run}: its events say {said}, its row {stands} ({mechanism})"
            )
    table = schema.event
    chosen = sa.select(table.c.coordinator).where(table.c.account_id == account.id)
    causes = connection.scalars(chosen.order_by(table.c.sequence)).all()
    for number, (by_body, by_row) in enumerate(zip(tally.causes, causes, strict=True), 1):
        if by_body != by_row:
            raise LedgerError(f"account {name}, event {number}: its row names another coordinator")
    rounds = {r.key: Round(r.state, r.run, r.round, r.counts, r.outcome) for r in reservations}
    for key in sorted(tally.rounds.keys() | rounds.keys()):
        if tally.rounds.get(key) != rounds.get(key):
            raise LedgerError(f"account {name}, round {key}: its events and its row disagree")
    return tally


def _in_words(held: Held, which: Iterable[str]) -> str:
    told = {**vars(held), "adaptive": "after results" if held.adaptive else "beforehand"}
    return ", ".join(f"{_WORDS[key]} {told[key] or 'none'}" for key in which)


def check_whole(connection: sa.Connection) -> None:
    """LedgerError where pages of the file are lost, or events whose account is."""
    if connection.dialect.name == "sqlite":
        said = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
        if said != "ok":
            raise LedgerError("the ledger's file is damaged: restore a backup, then settle it")
    known = sa.select(schema.account.c.id)
    of = schema.event.c.account_id
    lost = connection.scalar(sa.select(of).where(of.not_in(known)).limit(1))
    if lost is not None:
        raise LedgerError(f"account number {lost} has events, but its row is gone")
