"""Rows of the ledger's tables as typed values, and back."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import sqlalchemy as sa

from dpbitfit.accounting.mechanism import Counts, Mechanism
from dpbitfit.errors import AccountingError, InputError, LedgerError
from dpbitfit.ledger import schema
from dpbitfit.ledger.account import Account, AccountName, AccountRow
from dpbitfit.ledger.canonical import counts_from_text
from dpbitfit.ledger.events import Event
from dpbitfit.ledger.fold import Allotment

_CHUNK = 5000  # values in one statement


class Reservation(NamedTuple):
    """A round of one account: its key, its state, and why it ended."""

    key: str
    account_id: int
    run: str
    round: int
    counts: Counts
    state: str
    outcome: str


def find_account(
    connection: sa.Connection, name: AccountName, lock: bool = False
) -> Account | None:
    chosen = sa.select(schema.account).where(*equal(schema.account, name._asdict()))
    row = connection.execute(chosen.with_for_update() if lock else chosen).one_or_none()
    return None if row is None else AccountRow(*row).read()


def locked(connection: sa.Connection, name: AccountName) -> Account:
    """The account of that name, locked for this transaction; InputError where there is none."""
    account = find_account(connection, name, lock=True)
    if account is None:
        raise InputError(f"there is no account {name}")
    return account


def accounts_of(connection: sa.Connection, ids: Iterable[int], lock: bool = False) -> list[Account]:
    accounts: list[Account] = []
    for chunk in chunks(sorted(set(ids))):  # one order for all, so that no two wait for each other
        table = schema.account
        chosen = sa.select(table).where(table.c.id.in_(chunk)).order_by(table.c.id)
        rows = connection.execute(chosen.with_for_update() if lock else chosen)
        accounts += [AccountRow(*row).read() for row in rows]
    return accounts


def lock(connection: sa.Connection, ids: Iterable[int]) -> list[Account]:
    return accounts_of(connection, ids, lock=True)


def account_rows(connection: sa.Connection) -> Iterator[AccountRow]:
    for row in connection.execute(sa.select(schema.account)):
        yield AccountRow(*row)


def update_account(connection: sa.Connection, account_id: int, **values: Any) -> None:
    table = schema.account
    connection.execute(sa.update(table).where(table.c.id == account_id).values(**values))


def allotments_of(
    connection: sa.Connection, ids: Collection[int]
) -> dict[int, dict[tuple[str, Mechanism], Allotment]]:
    """By account id, then by run and mechanism."""
    allotments: dict[int, dict[tuple[str, Mechanism], Allotment]] = {key: {} for key in ids}
    table = schema.allotment
    for chunk in chunks(ids):
        for row in connection.execute(sa.select(table).where(table.c.account_id.in_(chunk))):
            allotments[row.account_id][row.run, to_mechanism(row)] = Allotment(
                row.allotted,
                row.reserved,
                row.committed,
                row.voided,
                bool(row.adaptive),
                row.plan,
                row.coordinator,
            )
    return allotments


def to_mechanism(row: Any) -> Mechanism:
    try:
        return Mechanism(float(row.noise_multiplier), float(row.sampling_rate))
    except (ValueError, AccountingError) as error:
        raise LedgerError(f"run {row.run}: its row cannot be read") from error


def plan_of(connection: sa.Connection, account_id: int, run: str) -> str | None:
    table = schema.allotment
    chosen = sa.select(table.c.plan).where(table.c.account_id == account_id, table.c.run == run)
    plan: str | None = connection.scalar(chosen.limit(1))
    return plan


def owners_of(
    connection: sa.Connection, ids: Iterable[int], runs: Collection[str]
) -> dict[tuple[int, str], str]:
    """By account id and run, the coordinator for whom it was approved."""
    table = schema.allotment.c
    owners: dict[tuple[int, str], str] = {}
    for chunk in chunks(ids):
        chosen = sa.select(table.account_id, table.run, table.coordinator)
        mine = chosen.where(table.account_id.in_(chunk), table.run.in_(runs)).distinct()
        owners |= {(row.account_id, row.run): row.coordinator for row in connection.execute(mine)}
    return owners


def reservations_of(
    connection: sa.Connection, column: sa.Column[Any], values: Iterable[Any]
) -> list[Reservation]:
    reservations: list[Reservation] = []
    for chunk in chunks(list(values)):
        chosen = sa.select(schema.reservation).where(column.in_(chunk))
        reservations += [to_reservation(row) for row in connection.execute(chosen)]
    return reservations


def to_reservation(row: Any) -> Reservation:
    settled = (row.state, row.outcome)
    try:
        counts = counts_from_text(row.counts)
    except LedgerError as error:
        raise LedgerError(f"round {row.key}: its row cannot be read") from error
    return Reservation(row.key, row.account_id, row.run, row.round, counts, *settled)


def events_of(
    connection: sa.Connection, account_id: int, after: int = 0, most: int | None = None
) -> Iterator[Event]:
    table = schema.event
    chosen = sa.select(table).where(table.c.account_id == account_id, table.c.sequence > after)
    for row in connection.execute(chosen.order_by(table.c.sequence).limit(most)):
        yield Event(row.sequence, row.kind, row.body, row.hash)


def last_events(connection: sa.Connection, lengths: Mapping[int, int]) -> dict[int, list[Event]]:
    """By account id, its last events in order: as many as ``lengths`` says, or more."""
    events: dict[int, list[Event]] = {}
    for length in sorted(set(lengths.values())):
        ids = [account_id for account_id, wanted in lengths.items() if wanted == length]
        chosen = _newest(length, connection.dialect.name)
        for chunk in chunks(ids):
            for row in connection.execute(chosen.where(schema.account.c.id.in_(chunk))):
                account_id, *values = row
                events.setdefault(account_id, []).append(Event(*values))
    return events


def _newest(length: int, dialect: str) -> sa.Select[Any]:
    """The last ``length`` events of all accounts, each account's in order."""
    event, account = schema.event.c, schema.account.c
    columns = (event.account_id, event.sequence, event.kind, event.body, event.hash)
    mine = sa.and_(event.account_id == account.id, event.sequence > account.sequence - length)
    if dialect == "sqlite":
        joined = sa.select(*columns).join_from(schema.account, schema.event, mine)
        return joined.order_by(event.account_id, event.sequence)
    # Left to itself, PostgreSQL reads the whole table; a limit in a lateral makes it look up each.
    each = sa.select(*columns).where(mine).order_by(event.sequence).limit(length).lateral()
    return sa.select(each).join_from(schema.account, each, sa.true())


def outcomes_of(connection: sa.Connection, ids: Collection[int]) -> dict[int, Counter[str]]:
    """By account id, how many of its rounds ended with which outcome."""
    outcomes: dict[int, Counter[str]] = {account_id: Counter() for account_id in ids}
    table = schema.reservation.c
    chosen = sa.select(table.account_id, table.outcome, sa.func.count())
    chosen = chosen.where(table.state.in_(("committed", "released")))
    for chunk in chunks(ids):
        counted = chosen.where(table.account_id.in_(chunk))
        for row in connection.execute(counted.group_by(table.account_id, table.outcome)):
            account_id, outcome, count = row
            outcomes[account_id][outcome] += count
    return outcomes


def open_keys_of(connection: sa.Connection, ids: Collection[int]) -> dict[int, set[str]]:
    """By account id, the keys of its rounds that have no end yet."""
    keys: dict[int, set[str]] = {account_id: set() for account_id in ids}
    table = schema.reservation.c
    chosen = sa.select(table.account_id, table.key).where(table.state == "reserved")
    for chunk in chunks(ids):
        for account_id, key in connection.execute(chosen.where(table.account_id.in_(chunk))):
            keys[account_id].add(key)
    return keys


def equal(table: sa.Table, values: Mapping[str, Any]) -> list[sa.ColumnElement[bool]]:
    return [table.c[name] == value for name, value in values.items()]


def chunks(values: Iterable[Any]) -> Iterator[list[Any]]:
    listed = list(values)
    for start in range(0, len(listed), _CHUNK):
        yield listed[start : start + _CHUNK]
