"""A ledger at one moment: what a reader needs several answers of, from one transaction."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping

import sqlalchemy as sa

from dpbitfit.accounting.composition import Bound
from dpbitfit.accounting.mechanism import Counts, Mechanism
from dpbitfit.errors import InputError
from dpbitfit.ledger import peers, queries, verify
from dpbitfit.ledger.account import Account, AccountName, AccountRow
from dpbitfit.ledger.bounds import stored_bounds
from dpbitfit.ledger.events import Event
from dpbitfit.ledger.fold import Allotment
from dpbitfit.ledger.peers import Peer
from dpbitfit.ledger.runs import RunStatus, run_statuses
from dpbitfit.ledger.verify import History


class Snapshot:
    """A consistent view, which ends with the block that ``Reader.snapshot`` opens.

    Every method raises LedgerError where the database cannot be read, or a row of it.
    """

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def account(self, name: AccountName) -> Account:
        """The account of that name; InputError where there is none."""
        account = queries.find_account(self._connection, name)
        if account is None:
            raise InputError(f"there is no account {name}")
        return account

    def account_rows(self) -> Iterator[AccountRow]:
        """Every account as it is stored, also one whose numbers cannot be read."""
        return queries.account_rows(self._connection)

    def allotments(self, ids: Collection[int]) -> dict[int, dict[tuple[str, Mechanism], Allotment]]:
        """By account id, what every run may do to it and has done."""
        return queries.allotments_of(self._connection, ids)

    def runs(self, account_id: int) -> list[RunStatus]:
        """Every run that was approved for an account, by name, and what it has left."""
        return run_statuses(self._connection, account_id)

    def events(self, account_id: int, after: int = 0, most: int | None = None) -> list[Event]:
        """An account's events in order, from the one behind ``after``."""
        return list(queries.events_of(self._connection, account_id, after, most))

    def last_events(self, lengths: Mapping[int, int]) -> dict[int, list[Event]]:
        """By account id, its last events in order: as many as ``lengths`` says, or more.

        One statement for all accounts that are asked for as many.
        """
        return queries.last_events(self._connection, lengths)

    def outcomes(self, ids: Collection[int]) -> dict[int, Counter[str]]:
        """By account id, how many of its rounds ended with which outcome."""
        return queries.outcomes_of(self._connection, ids)

    def open_keys(self, ids: Collection[int]) -> dict[int, set[str]]:
        """By account id, the keys of its rounds that have no end yet."""
        return queries.open_keys_of(self._connection, ids)

    def history(self, name: AccountName) -> History:
        """All that ever happened to an account; LedgerError for the first row that is wrong."""
        return verify.history(self._connection, name)

    def peers(self, account_id: int) -> list[Peer]:
        """What is known of the other side, by its ledger's key."""
        return sorted(peers.find(self._connection, account_id).values(), key=lambda p: p.ledger)

    def drifts(self) -> dict[int, str]:
        """By account id, how its ledger and another disagree; only where they do."""
        return peers.drifts(self._connection)

    def bounds(self, places: Iterable[tuple[Counts, float]]) -> dict[tuple[Counts, float], Bound]:
        """By counts and delta, the stored bounds of the accountants that are installed."""
        return stored_bounds(self._connection, places)
