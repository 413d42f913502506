"""What is cached of a ledger's accounts, so that only what is new is read."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from dpbitfit.errors import DpbitfitError, LedgerError
from dpbitfit.ledger import status
from dpbitfit.ledger.account import Account, AccountName, AccountRow, check_budget
from dpbitfit.ledger.fold import Allotments
from dpbitfit.ledger.snapshot import Snapshot
from dpbitfit.ledger.status import BudgetStatus
from dpbitfit_monitor.activity import Activity, catch_up
from dpbitfit_monitor.bounds import Bounds


@dataclass
class CachedAccount:
    """An account as its ``row`` was; ``problem`` says why the rest of it is missing."""

    row: AccountRow
    name: AccountName
    account: Account | None = None
    activity: Activity | None = None
    allotments: Allotments | None = None
    status: BudgetStatus | None = None  # cached once it is exact
    problem: str = ""


class AccountCache:
    """Accounts by their number in the database; ``bounds`` takes over bounds stored there."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._cached: dict[int, CachedAccount] = {}

    def refresh(self, snapshot: Snapshot) -> dict[int, CachedAccount]:
        """Every account as the ledger has it now."""
        # Filled again at the end: a look that fails half-way leaves nothing half-read.
        before, self._cached = self._cached, {}
        now: dict[int, CachedAccount] = {}
        changed: dict[int, CachedAccount] = {}
        for row in snapshot.account_rows():
            cached = before.get(row.id)
            if cached is None or cached.row != row or cached.problem:
                cached = changed[row.id] = _fresh(row)
            now[row.id] = cached
        readable = {
            account_id: cached.account
            for account_id, cached in changed.items()
            if cached.account is not None
        }
        older = {
            account_id: before[account_id].activity
            for account_id in readable
            if account_id in before
        }
        activities, broken = catch_up(snapshot, readable, older)
        allotments, unread = _allotments(snapshot, activities.keys())
        for account_id, problem in (broken | unread).items():
            now[account_id].problem = problem
        for account_id in allotments:
            now[account_id].activity = activities[account_id]
            now[account_id].allotments = allotments[account_id]
        new = changed.keys() - before.keys()
        self._take_over_bounds(snapshot, (changed[account_id] for account_id in new))
        self._cached = now
        return now

    def _take_over_bounds(self, snapshot: Snapshot, new: Iterable[CachedAccount]) -> None:
        wanted = {
            (counts, cached.account.delta)
            for cached in new
            if cached.account is not None and cached.allotments is not None
            for counts in status.fixed_compositions(cached.allotments)
        }
        self._bounds.take_over(snapshot.bounds(wanted).items())


def _fresh(row: AccountRow) -> CachedAccount:
    cached = CachedAccount(row, AccountName(row.site, row.dataset, row.unit))
    try:
        account = row.read()
        check_budget(account.delta, account.budget)
        cached.account = account
    except DpbitfitError as error:
        cached.problem = str(error)
    return cached


def _allotments(
    snapshot: Snapshot, ids: Collection[int]
) -> tuple[dict[int, Allotments], dict[int, str]]:
    """What each account's runs hold; and why not, where a row of it cannot be read."""
    try:
        return dict(snapshot.allotments(ids)), {}
    except LedgerError:
        allotments: dict[int, Allotments] = {}
        unread: dict[int, str] = {}
        for account_id in ids:
            try:
                allotments[account_id] = snapshot.allotments([account_id])[account_id]
            except LedgerError as error:
                unread[account_id] = str(error)
        return allotments, unread
