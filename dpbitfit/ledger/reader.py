"""Reading the ledger: accounts, what their runs hold, rounds, replies and events."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Self

import sqlalchemy as sa

from dpbitfit.accounting.mechanism import Mechanism
from dpbitfit.ledger import identity, outbox, queries, schema
from dpbitfit.ledger.account import Account, AccountName
from dpbitfit.ledger.database import WAIT_SECONDS, Database
from dpbitfit.ledger.events import Event
from dpbitfit.ledger.fold import AccountState, Allotment
from dpbitfit.ledger.outbox import Reply
from dpbitfit.ledger.queries import Reservation
from dpbitfit.ledger.runs import RunStatus
from dpbitfit.ledger.snapshot import Snapshot
from dpbitfit.ledger.verify import verify


class Reader:
    """What a ledger in a database says, without the key that signs for it.

    A context manager, which closes the database at its end. Every answer is one consistent
    view. ``id`` is the ledger's public key, by which the other side knows it. See
    ``Database`` for the arguments and the errors.
    """

    def __init__(
        self,
        url: str,
        create: bool = False,
        readonly: bool = False,
        wait_seconds: float = WAIT_SECONDS,
    ) -> None:
        self.database = Database(url, create, readonly, wait_seconds=wait_seconds)
        with self.database.closed_on_failure():
            if create:
                identity.make(self.database)
            self.id = identity.read_public(self.database)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.database.close()

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """The ledger at one moment, for several answers that belong together."""
        with self.database.read() as connection:
            yield Snapshot(connection)

    def account(self, name: AccountName) -> Account:
        """The account of that name; InputError where there is none."""
        with self.snapshot() as snapshot:
            return snapshot.account(name)

    def accounts(self) -> list[Account]:
        """Every account, by name."""
        with self.snapshot() as snapshot:
            accounts = [row.read() for row in snapshot.account_rows()]
        return sorted(accounts, key=lambda account: account.name)

    def allotments(self, ids: Collection[int]) -> dict[int, dict[tuple[str, Mechanism], Allotment]]:
        """By account id, what every run may do to it and has done."""
        with self.snapshot() as snapshot:
            return snapshot.allotments(ids)

    def runs(self, account: Account) -> list[RunStatus]:
        """Every run that was approved for an account, by name, and what it has left."""
        with self.snapshot() as snapshot:
            return snapshot.runs(account.id)

    def reservations(self, run: str | None = None, state: str = "reserved") -> list[Reservation]:
        """The rounds of a run, or of all, in one state."""
        table = schema.reservation
        chosen = sa.select(table).where(table.c.state == state)
        if run is not None:
            chosen = chosen.where(table.c.run == run)
        with self.database.read() as connection:
            return [queries.to_reservation(row) for row in connection.execute(chosen)]

    def reservation(self, key: str) -> Reservation | None:
        """The reservation of a key, in whatever state."""
        with self.database.read() as connection:
            reservations = queries.reservations_of(connection, schema.reservation.c.key, [key])
        return reservations[0] if reservations else None

    def round_of(self, run: str, number: int) -> list[Reservation]:
        """Every reservation that was ever made for one round of a run."""
        table = schema.reservation
        chosen = sa.select(table).where(table.c.run == run, table.c.round == number)
        with self.database.read() as connection:
            return [queries.to_reservation(row) for row in connection.execute(chosen)]

    def peer(self, account: Account) -> str:
        """The ledger that speaks for an account's site; "" before any has spoken."""
        table = schema.peer
        chosen = sa.select(table.c.ledger).where(
            table.c.account_id == account.id, table.c.drift == ""
        )
        with self.database.read() as connection:
            return connection.scalar(chosen) or ""

    def times_rebased(self, account: Account) -> int:
        """How often this side has taken over the other's counts of an account."""
        with self.snapshot() as snapshot:
            return max((peer.rebased for peer in snapshot.peers(account.id)), default=0)

    def reply(self, key: str) -> Reply | None:
        """The reply that is stored for a key."""
        with self.database.read() as connection:
            return outbox.find(connection, key)

    def last_reply(self, account: Account, run: str) -> Reply | None:
        """The newest stored reply of a run."""
        with self.database.read() as connection:
            return outbox.newest(connection, account.id, run)

    def events(self, name: AccountName, after: int = 0, most: int | None = None) -> list[Event]:
        """An account's events in order, from the one behind ``after``."""
        with self.snapshot() as snapshot:
            return snapshot.events(snapshot.account(name).id, after, most)

    def verify(self, account: Account) -> AccountState:
        """Add up the account's events again and compare; returns what they add up to.

        Raises LedgerError that names the first row that is wrong.
        """
        with self.database.read() as connection:
            return verify(connection, account.name)
