"""A ledger's accounts as views, read again and again, each time only what is new.

The ledger is opened for each look, so that a ledger that is gone, replaced, locked,
migrating or newer is noticed at once: then LedgerError says so, and no older
figure takes its place.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from dpbitfit.accounting.composition import Bound
from dpbitfit.accounting.mechanism import Counts
from dpbitfit.errors import AccountingError, InputError, LedgerError
from dpbitfit.ledger import budget, status
from dpbitfit.ledger.account import Account, AccountName, check_name
from dpbitfit.ledger.events import AccountOpened, BudgetSet, CountsRaised, Event
from dpbitfit.ledger.fold import Allotments
from dpbitfit.ledger.forecast import Forecast, forecast
from dpbitfit.ledger.reader import Reader
from dpbitfit.ledger.snapshot import Snapshot
from dpbitfit.ledger.status import BudgetStatus
from dpbitfit.ledger.verify import History
from dpbitfit_monitor import series
from dpbitfit_monitor.account_cache import AccountCache, CachedAccount
from dpbitfit_monitor.activity import REFUSALS, Activity
from dpbitfit_monitor.bounds import Bounds
from dpbitfit_monitor.views import (
    AccountDetail,
    AccountView,
    Overview,
    UnreadableAccount,
    Witness,
    is_exact,
    threshold,
)

WAIT_SECONDS = 3.0  # for another process's transaction
FRESH_SECONDS = 3.0  # an overview that is no older is not made again
SILENT_AFTER = timedelta(hours=24)
ORPHAN_AFTER = timedelta(hours=4)  # four times the longest that a round waits by default
MOST_EVENTS = 1000  # of one page
MOST_FORECAST_STEPS = 10**6
_DECISIONS = (AccountOpened.kind, BudgetSet.kind, CountsRaised.kind)


class UnknownAccount(InputError):
    """The ledger has no account of that name."""


class DamagedAccount(LedgerError):
    """An account's rows are corrupt; the rest of the ledger can be read."""


class LedgerViews:
    """A ledger's accounts as views, for many threads.

    ``bounds`` are the figures; until they are refined, some are quick upper bounds.
    """

    def __init__(
        self,
        url: str,
        silent_after: timedelta = SILENT_AFTER,
        orphan_after: timedelta = ORPHAN_AFTER,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.bounds = Bounds()
        self._url = url
        self._silent_after = silent_after
        self._orphan_after = orphan_after
        self._now = now
        self._lock = threading.Lock()
        self._cache = AccountCache(self.bounds)
        self._damaged: dict[AccountName, str] = {}
        self._to_verify: list[AccountName] = []
        self._last: Overview | None = None

    def overview(self, fresh: bool = False) -> Overview:
        """Every account, as it was some seconds ago at most; with ``fresh``, as it is now.

        Raises LedgerError where the ledger cannot be read.
        """
        now = self._now()
        last = self._last
        if not fresh and last is not None and _is_recent(last, now):
            return last  # without waiting for a look that is under way
        with self._lock:
            last = self._last
            if last is None or not (now < last.at or (not fresh and _is_recent(last, now))):
                try:
                    last = self._look(self._now())
                except LedgerError:
                    self._last = None  # an older overview is not shown in its place
                    raise
                self._last = last
            return last

    def account(self, name: AccountName) -> AccountDetail:
        """All about one account, from nothing but its rows, its chain of events verified.

        Raises UnknownAccount where there is none, DamagedAccount where its rows are
        corrupt, LedgerError where the ledger cannot be read.
        """
        with self._opened() as ledger, ledger.snapshot() as snapshot:
            history = self._verified(snapshot, name)
            witnesses = _witnesses(snapshot, history.account.id)
            runs = snapshot.runs(history.account.id)
        account, allotments = history.account, history.state.allotments
        activity = Activity.of_history(history)
        try:
            exact = self._is_exact(account, allotments)
            figures = status.derive_status(account, allotments, self._urgently)
            drift = next((witness.drift for witness in witnesses if witness.drift), "")
            view = self._view(figures, exact, activity, allotments, drift, self._now())
            curve = tuple(status.guaranteed_curve(account, allotments, self._urgently))
            accrued = series.accrued(history, self._urgently)
        except AccountingError as error:
            raise DamagedAccount(f"account {name}: {error}") from error
        return AccountDetail(
            view=view,
            series=accrued,
            curve=curve,
            runs=tuple(runs),
            open_rounds=tuple(activity.open.values()),
            decisions=tuple(event for event in history.events if event.kind in _DECISIONS),
            witnesses=witnesses,
        )

    def events(self, name: AccountName, after: int = 0, most: int = MOST_EVENTS) -> list[Event]:
        """An account's events in order, from the one behind ``after``, as they are written.

        Raises UnknownAccount where there is no such account.
        """
        with self._opened() as ledger, ledger.snapshot() as snapshot:
            account = _account(snapshot, name)
            return snapshot.events(account.id, after, min(most, MOST_EVENTS))

    def forecast(
        self, name: AccountName, sampling_rate: float, steps: int, noise_multiplier: float = 0.0
    ) -> Forecast:
        """What a plan would cost an account; seconds of computing.

        Raises UnknownAccount, and AccountingError for numbers out of range.
        """
        if not 1 <= steps <= MOST_FORECAST_STEPS:
            raise AccountingError(f"a forecast is of 1 to {MOST_FORECAST_STEPS:,} steps")
        with self._opened() as ledger:
            with ledger.snapshot() as snapshot:
                account = _account(snapshot, name)
            return forecast(ledger, account, sampling_rate, steps, noise_multiplier)

    def verify_next(self) -> None:
        """Verify the whole chain of one account, the next one each time.

        Rows that another program has changed are noticed so; from then on the account
        is shown as unreadable.
        """
        if not self._to_verify:
            self._to_verify = [view.name for view in self.overview().accounts]
        if self._to_verify:
            with (
                suppress(DamagedAccount, UnknownAccount),
                self._opened() as ledger,
                ledger.snapshot() as snapshot,
            ):
                self._verified(snapshot, self._to_verify.pop())

    def _verified(self, snapshot: Snapshot, name: AccountName) -> History:
        _account(snapshot, name)
        try:
            history = snapshot.history(name)
        except LedgerError as error:
            self._damaged[name] = str(error)
            raise DamagedAccount(str(error)) from error
        self._damaged.pop(name, None)
        return history

    def _urgently(self, counts: Counts, delta: float) -> Bound:
        return self.bounds.get(counts, delta, urgency=1)

    def _opened(self) -> Reader:
        return Reader(self._url, readonly=True, wait_seconds=WAIT_SECONDS)

    def _look(self, now: datetime) -> Overview:
        with self._opened() as ledger, ledger.snapshot() as snapshot:
            cached_accounts = self._cache.refresh(snapshot)
            drifts = snapshot.drifts()
        accounts: list[AccountView] = []
        unreadable: list[UnreadableAccount] = []
        for account_id, cached in cached_accounts.items():
            try:
                accounts.append(self._view_of(cached, drifts.get(account_id, ""), now))
            except (LedgerError, AccountingError) as error:
                unreadable.append(UnreadableAccount(cached.name, str(error)))
        accounts.sort(key=lambda view: view.name)
        unreadable.sort(key=lambda account: account.name)
        return Overview(now, ledger.id, tuple(accounts), tuple(unreadable))

    def _view_of(self, cached: CachedAccount, drift: str, now: datetime) -> AccountView:
        problem = cached.problem or self._damaged.get(cached.name)
        account, activity, allotments = cached.account, cached.activity, cached.allotments
        if problem or account is None or activity is None or allotments is None:
            raise LedgerError(problem)
        figures, exact = cached.status, True
        if figures is None:
            exact = self._is_exact(account, allotments)
            figures = status.derive_status(account, allotments, self.bounds.get)
            if exact and is_exact(figures.guaranteed.bound):
                cached.status = figures
        return self._view(figures, exact, activity, allotments, drift, now)

    def _is_exact(self, account: Account, allotments: Allotments) -> bool:
        """Whether what was spent is known and not only a quick figure; asked before it is used.

        A loose one gives way to all that is approved, whose figure does not show it.
        """
        steps = budget.spent(allotments)
        return is_exact(budget.accrued(account, allotments, steps, account.delta, self.bounds.get))

    def _view(
        self,
        figures: BudgetStatus,
        exact: bool,
        activity: Activity,
        allotments: Allotments,
        drift: str,
        now: datetime,
    ) -> AccountView:
        account = figures.account
        open_since = min((opened.since for opened in activity.open.values()), default=None)
        accrued = figures.accrued.bound
        reached = threshold(accrued.epsilon / account.budget) if exact else 0.0
        return AccountView(
            name=account.name,
            reached=reached,
            sequence=account.sequence,
            head=account.head,
            delta=account.delta,
            budget=account.budget,
            guaranteed=figures.guaranteed,
            approved=figures.approved,
            accrued=figures.accrued,
            accrued_is_exact=exact,
            left=figures.left,
            run=activity.run,
            rounds_left=_rounds_left(activity, allotments),
            last_seen=activity.last_seen,
            asked_since=activity.asked_since,
            ends=dict(activity.ends),
            refusals={end: activity.ends[end] for end in REFUSALS if activity.ends[end]},
            open_rounds=len(activity.open),
            open_since=open_since,
            silent=_is_over(activity.asked_since, self._silent_after, now),
            orphaned=_is_over(open_since, self._orphan_after, now),
            drift=drift,
        )


def _is_recent(overview: Overview, now: datetime) -> bool:
    return abs(now - overview.at) < timedelta(seconds=FRESH_SECONDS)


def _account(snapshot: Snapshot, name: AccountName) -> Account:
    try:
        check_name(name)
        return snapshot.account(name)
    except InputError as error:
        raise UnknownAccount(f"there is no such account: {error}") from error
    except LedgerError as error:  # of a row: a database's own failure is another
        raise DamagedAccount(str(error)) from error


def _is_over(since: datetime | None, limit: timedelta, now: datetime) -> bool:
    return since is not None and now - since > limit


def _witnesses(snapshot: Snapshot, account_id: int) -> tuple[Witness, ...]:
    return tuple(
        Witness(peer.ledger, peer.sequence, peer.head, peer.drift)
        for peer in snapshot.peers(account_id)
    )


def _rounds_left(activity: Activity, allotments: Allotments) -> int | None:
    """How many more rounds the run that was active last can make, each like its last."""
    if not activity.counts:
        return None
    left = {
        mechanism: allotment.left
        for (run, mechanism), allotment in allotments.items()
        if run == activity.run
    }
    return min(left.get(mechanism, 0) // steps for mechanism, steps in activity.counts)
