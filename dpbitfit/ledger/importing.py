"""Adding exported events to a ledger: all of them, verified, or none."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Self

import sqlalchemy as sa

from dpbitfit.accounting.renyi import RDP_ORDERS
from dpbitfit.errors import DpbitfitError, InputError, LedgerError
from dpbitfit.ledger import queries, schema
from dpbitfit.ledger.account import Account, AccountName, check_budget, check_name
from dpbitfit.ledger.canonical import counts_to_text, mechanism_to_text, number_to_text
from dpbitfit.ledger.events import Event, KeyVoided, RoundCommitted, RoundReleased, RoundReserved
from dpbitfit.ledger.fold import AccountState
from dpbitfit.ledger.ledger import Ledger
from dpbitfit.ledger.verify import verify

_FIELDS = ("sequence", "kind", "body", "hash")


def read_lines(path: str) -> Iterator[bytes]:
    """The lines of an exported file; InputError where it cannot be read."""
    try:
        with open(path, "rb") as file:
            yield from file
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def import_events(ledger: Ledger, exported: Iterable[bytes]) -> dict[AccountName, int]:
    """Add exported events to the ledger: all of them, verified, or none.

    Accounts that are not there are made; events that are there already must be
    the same and are passed over. Returns the number of new events of each
    account. Raises LedgerError, naming the line, for the first that is damaged
    or does not extend what is there. Bounds, replies and the other side's
    heads are not exported, and this ledger stays the one that it is.
    """
    chains: dict[AccountName, _Chain] = {}
    with ledger.database.write() as connection:
        for number, line in enumerate(exported, 1):
            try:
                name, event = _parse(line)
                if name not in chains:
                    chains[name] = _Chain.of(connection, name)
                chains[name].add(event)
            except (DpbitfitError, ValueError, TypeError, KeyError, RecursionError) as error:
                reason = error if isinstance(error, DpbitfitError) else "it cannot be read"
                raise LedgerError(f"line {number}: {reason}; nothing was imported") from error
        for chain in chains.values():
            chain.write(connection)
        for name in chains:
            verify(connection, name)
    return {name: len(chain.fresh) for name, chain in chains.items()}


@dataclass
class _Chain:
    """One account on its way in: what is there, and the events that extend it."""

    state: AccountState
    account: Account | None
    known: list[Event]
    fresh: list[Event] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)  # of the rounds that they change

    @classmethod
    def of(cls, connection: sa.Connection, name: AccountName) -> Self:
        account = queries.find_account(connection, name, lock=True)
        if account is None:
            check_name(name)
            return cls(AccountState(name), None, [])
        known = list(queries.events_of(connection, account.id))
        return cls(verify(connection, name), account, known)

    def add(self, event: Event) -> None:
        """Add the next event; LedgerError where it is not the next, or not the one there."""
        if not self.fresh and 0 < event.sequence <= len(self.known):
            if event != self.known[event.sequence - 1]:
                raise LedgerError(
                    f"account {self.state.name}, event {event.sequence}: another event stands "
                    "here in this ledger"
                )
            return
        content = self.state.add(event).content
        self.fresh.append(event)
        if isinstance(content, RoundReserved | RoundCommitted | RoundReleased | KeyVoided):
            self.keys.add(content.key)
        check_budget(self.state.delta, self.state.budget)
        if self.state.filter_order not in (0, *RDP_ORDERS):
            raise ValueError("there is no such order")

    def write(self, connection: sa.Connection) -> None:
        """Write the new events, and bring every other table to what the chain adds up to."""
        if not self.fresh:
            return
        state = self.state
        numbers = {
            "delta": number_to_text(state.delta),
            "budget": number_to_text(state.budget),
        }
        if self.account is None:
            values = {**state.name._asdict(), "filter_order": 0, "sequence": 0, "head": ""}
            connection.execute(sa.insert(schema.account).values(values | numbers))
            self.account = queries.locked(connection, state.name)
        account_id = self.account.id
        queries.update_account(
            connection,
            account_id,
            **numbers,
            filter_order=state.filter_order,
            sequence=state.sequence,
            head=state.head,
        )
        causes = state.causes[-len(self.fresh) :]
        events = [
            {"account_id": account_id, **vars(event), "coordinator": cause}
            for event, cause in zip(self.fresh, causes, strict=True)
        ]
        connection.execute(sa.insert(schema.event), events)
        self._write_allotments(connection, account_id)
        self._write_rounds(connection, account_id)

    def _write_allotments(self, connection: sa.Connection, account_id: int) -> None:
        table = schema.allotment
        for (run, mechanism), allotment in self.state.allotments.items():
            at = {"account_id": account_id, "run": run, **mechanism_to_text(mechanism)}
            numbers = {**vars(allotment), "adaptive": int(allotment.adaptive)}
            change = sa.update(table).where(*queries.equal(table, at)).values(**numbers)
            if not connection.execute(change).rowcount:
                connection.execute(sa.insert(table).values(**at, **numbers))

    def _write_rounds(self, connection: sa.Connection, account_id: int) -> None:
        table = schema.reservation
        known = queries.reservations_of(connection, table.c.account_id, [account_id])
        before = {reservation.key for reservation in known}
        new = []
        for key in self.keys:
            values = {**self.state.rounds[key]._asdict(), "key": key, "account_id": account_id}
            values["counts"] = counts_to_text(self.state.rounds[key].counts)
            if key in before:
                connection.execute(sa.update(table).where(table.c.key == key).values(**values))
            else:
                new.append(values)
        if new:
            connection.execute(sa.insert(table), new)


def _parse(line: bytes) -> tuple[AccountName, Event]:
    read = json.loads(line)
    site, dataset, unit = read["account"]
    event = Event(*(read[key] for key in _FIELDS))
    texts = (site, dataset, unit, event.kind, event.body, event.hash)
    if type(event.sequence) is not int or not all(isinstance(text, str) for text in texts):
        raise ValueError("a field has another type")
    return AccountName(site, dataset, unit), event
