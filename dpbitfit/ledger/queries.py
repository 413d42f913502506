"""Rows of the ledger's tables as typed values, and back."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import sqlalchemy as sa

from dpbitfit.accounting.composition import Counts, Mechanism
from dpbitfit.errors import AccountingError, LedgerError
from dpbitfit.ledger import schema
from dpbitfit.ledger.budget import Account
from dpbitfit.ledger.events import AccountName, Event, Held, canonical, counts_from_text

_CHUNK = 5000  # values in one statement


class Reservation(NamedTuple):
    """A round of one account: its key, and how it stands."""

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
    return None if row is None else to_account(row)


def accounts_of(connection: sa.Connection, ids: Iterable[int], lock: bool = False) -> list[Account]:
    found: list[Account] = []
    for chunk in chunks(sorted(set(ids))):  # one order for all, so that no two wait in a circle
        table = schema.account
        chosen = sa.select(table).where(table.c.id.in_(chunk)).order_by(table.c.id)
        rows = connection.execute(chosen.with_for_update() if lock else chosen)
        found += [to_account(row) for row in rows]
    return found


def lock(connection: sa.Connection, ids: Iterable[int]) -> list[Account]:
    return accounts_of(connection, ids, lock=True)


def to_account(row: Any) -> Account:
    name = AccountName(row.site, row.dataset, row.unit)
    try:
        delta, budget = float(row.delta), float(row.budget)
    except ValueError as error:
        raise LedgerError(f"account {name}: its row cannot be read") from error
    return Account(
        id=row.id,
        name=name,
        delta=delta,
        budget=budget,
        filter_order=row.filter_order,
        sequence=row.sequence,
        head=row.head,
    )


def update_account(connection: sa.Connection, account_id: int, **values: Any) -> None:
    table = schema.account
    connection.execute(sa.update(table).where(table.c.id == account_id).values(**values))


def holdings_of(
    connection: sa.Connection, ids: Collection[int]
) -> dict[int, dict[tuple[str, Mechanism], Held]]:
    found: dict[int, dict[tuple[str, Mechanism], Held]] = {of: {} for of in ids}
    table = schema.allotment
    for chunk in chunks(ids):
        for row in connection.execute(sa.select(table).where(table.c.account_id.in_(chunk))):
            found[row.account_id][row.run, to_mechanism(row)] = Held(
                row.allotted,
                row.reserved,
                row.committed,
                row.voided,
                bool(row.adaptive),
                row.plan,
                row.coordinator,
            )
    return found


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
    found: dict[tuple[int, str], str] = {}
    for chunk in chunks(ids):
        chosen = sa.select(table.account_id, table.run, table.coordinator)
        mine = chosen.where(table.account_id.in_(chunk), table.run.in_(runs)).distinct()
        found |= {(row.account_id, row.run): row.coordinator for row in connection.execute(mine)}
    return found


def reservations_of(
    connection: sa.Connection, column: sa.Column[Any], values: Iterable[Any]
) -> list[Reservation]:
    found: list[Reservation] = []
    for chunk in chunks(list(values)):
        chosen = sa.select(schema.reservation).where(column.in_(chunk))
        found += [to_reservation(row) for row in connection.execute(chosen)]
    return found


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


def turns(reservations: Iterable[Reservation]) -> Iterator[list[Reservation]]:
    """Lists in which no account stands twice."""
    left = list(reservations)
    while left:
        seen: set[int] = set()
        turn: list[Reservation] = []
        later: list[Reservation] = []
        for one in left:
            (later if one.account_id in seen else turn).append(one)
            seen.add(one.account_id)
        yield turn
        left = later


def equal(table: sa.Table, values: Mapping[str, Any]) -> list[sa.ColumnElement[bool]]:
    return [table.c[name] == value for name, value in values.items()]


def mechanism_text(mechanism: Mechanism) -> dict[str, str]:
    return {
        "noise_multiplier": canonical(mechanism.noise_multiplier),
        "sampling_rate": canonical(mechanism.sampling_rate),
    }


def triples(counts: Counts) -> list[list[str | int]]:
    return [[*mechanism_text(mechanism).values(), steps] for mechanism, steps in counts]


def chunks(values: Iterable[Any]) -> Iterator[list[Any]]:
    listed = list(values)
    for start in range(0, len(listed), _CHUNK):
        yield listed[start : start + _CHUNK]
