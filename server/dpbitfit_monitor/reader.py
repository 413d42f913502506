"""Reading a ledger again and again, each time only what is new.

The ledger is opened for each look, so that one that is gone, replaced, locked,
migrating or newer is noticed at once: then LedgerError says so, and no older
figure takes its place.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from dpbitfit.accounting.composition import Bound, Counts
from dpbitfit.errors import AccountingError, InputError, LedgerError
from dpbitfit.ledger import Account, AccountName, Ledger, budget, queries, schema, status
from dpbitfit.ledger.budget import Holdings
from dpbitfit.ledger.events import Event
from dpbitfit.ledger.forecast import Forecast, forecast
from dpbitfit.ledger.ledger import check_name
from dpbitfit.ledger.status import BudgetStatus
from dpbitfit.ledger.verify import verify
from dpbitfit_monitor import series
from dpbitfit_monitor.account_cache import AccountCache, Kept
from dpbitfit_monitor.activity import REFUSALS, Activity
from dpbitfit_monitor.bounds import Bounds
from dpbitfit_monitor.views import (
    AccountDetail,
    AccountView,
    Overview,
    UnreadableAccount,
    Witness,
    is_exact,
    plain_sentence,
    threshold,
)

WAIT_SECONDS = 3.0  # for another process's transaction
FRESH_SECONDS = 3.0  # an overview that is no older is not made again
SILENT_AFTER = timedelta(hours=24)
ORPHAN_AFTER = timedelta(hours=4)  # four times the longest that a round waits by default
MOST_EVENTS = 1000  # of one page
MOST_FORECAST_STEPS = 10**6
_DECISIONS = ("open", "budget", "rebase")


class UnknownAccount(InputError):
    """The ledger has no account of that name."""


class DamagedAccount(LedgerError):
    """An account's rows cannot be believed; the ledger can be read."""


class Reader:
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
        self._memory = AccountCache(self.bounds)
        self._damaged: dict[AccountName, str] = {}
        self._to_verify: list[AccountName] = []
        self._last: Overview | None = None

    def overview(self, fresh: bool = False) -> Overview:
        """Every account, as it was some seconds ago at most; with ``fresh``, as it is now.

        Raises LedgerError where the ledger cannot be read.
        """
        asked = self._now()
        last = self._last
        if not fresh and last is not None and _is_recent(last, asked):
            return last  # without waiting for a look that is under way
        with self._lock:
            last = self._last
            if last is None or not (asked < last.at or (not fresh and _is_recent(last, asked))):
                try:
                    last = self._look(self._now())
                except LedgerError:
                    self._last = None  # nobody is shown what was
                    raise
                self._last = last
            return last

    def account(self, name: AccountName) -> AccountDetail:
        """All about one account, from nothing but its rows, its chain of events verified.

        Raises UnknownAccount where there is none, DamagedAccount where it cannot be
        believed, LedgerError where the ledger cannot be read.
        """
        with self._opened() as ledger:
            with ledger.database.read() as connection:
                account, holdings, events = self._verified(connection, name)
                witnesses = _witnesses(connection, account.id)
            runs = status.run_standings(ledger, account)
        trace = Activity()
        for event in events:
            trace.add(event)
        try:
            exact = self._is_exact(account, holdings)
            standing = status.derive(account, holdings, self._urgently)
            drift = next((one.drift for one in witnesses if one.drift), "")
            view = self._view(standing, exact, trace, holdings, drift, self._now())
            curve = tuple(status.curve_of(account, holdings, self._urgently))
            accrued = series.accrued(account, holdings, events, self._urgently)
        except AccountingError as error:
            raise DamagedAccount(f"account {name}: {error}") from error
        return AccountDetail(
            view=view,
            sentence=plain_sentence(view),
            series=accrued,
            curve=curve,
            runs=tuple(runs),
            open_rounds=tuple(trace.open.values()),
            decisions=tuple(event for event in events if event.kind in _DECISIONS),
            witnesses=witnesses,
        )

    def events(self, name: AccountName, after: int = 0, most: int = MOST_EVENTS) -> list[Event]:
        """An account's events in order, from the one behind ``after``, as they are written.

        Raises UnknownAccount where there is no such account.
        """
        with self._opened() as ledger, ledger.database.read() as connection:
            of = _found(connection, name).id
            return list(queries.events_of(connection, of, after, min(most, MOST_EVENTS)))

    def forecast(
        self, name: AccountName, sampling_rate: float, steps: int, noise_multiplier: float = 0.0
    ) -> Forecast:
        """What a plan would cost an account; seconds of computing.

        Raises UnknownAccount, and AccountingError for numbers out of range.
        """
        if not 1 <= steps <= MOST_FORECAST_STEPS:
            raise AccountingError(f"a forecast is of 1 to {MOST_FORECAST_STEPS:,} steps")
        with self._opened() as ledger:
            with ledger.database.read() as connection:
                account = _found(connection, name)
            return forecast(ledger, account, sampling_rate, steps, noise_multiplier)

    def verify_next(self) -> None:
        """Verify the whole chain of one account, the next one each time.

        Rows that are changed behind everybody's back are noticed so; from then on
        the account is shown as unreadable.
        """
        if not self._to_verify:
            self._to_verify = [view.name for view in self.overview().accounts]
        if self._to_verify:
            with (
                suppress(DamagedAccount, UnknownAccount),
                self._opened() as ledger,
                ledger.database.read() as connection,
            ):
                self._verified(connection, self._to_verify.pop())

    def _verified(
        self, connection: sa.Connection, name: AccountName
    ) -> tuple[Account, Holdings, list[Event]]:
        account = _found(connection, name)
        events = list(queries.events_of(connection, account.id))
        try:
            holdings = verify(connection, name, events).held
        except LedgerError as error:
            self._damaged[name] = str(error)
            raise DamagedAccount(str(error)) from error
        self._damaged.pop(name, None)
        return account, holdings, events

    def _urgently(self, counts: Counts, delta: float) -> Bound:
        return self.bounds.get(counts, delta, urgency=1)

    @contextmanager
    def _opened(self) -> Iterator[Ledger]:
        ledger = Ledger(self._url, readonly=True, wait_seconds=WAIT_SECONDS)
        try:
            yield ledger
        finally:
            ledger.database.close()

    def _look(self, now: datetime) -> Overview:
        with self._opened() as ledger, ledger.database.read() as connection:
            kept_now = self._memory.refresh(connection)
            drifts = _drifts(connection)
        accounts: list[AccountView] = []
        unreadable: list[UnreadableAccount] = []
        for of, kept in kept_now.items():
            try:
                accounts.append(self._view_of(kept, drifts.get(of, ""), now))
            except (LedgerError, AccountingError) as error:
                unreadable.append(UnreadableAccount(kept.name, str(error)))
        accounts.sort(key=lambda view: view.name)
        unreadable.sort(key=lambda one: one.name)
        return Overview(now, ledger.id, tuple(accounts), tuple(unreadable))

    def _view_of(self, kept: Kept, drift: str, now: datetime) -> AccountView:
        problem = kept.problem or self._damaged.get(kept.name)
        if problem or kept.account is None or kept.trace is None or kept.holdings is None:
            raise LedgerError(problem)
        standing, exact = kept.standing, True
        if standing is None:
            exact = self._is_exact(kept.account, kept.holdings)
            standing = status.derive(kept.account, kept.holdings, self.bounds.get)
            if exact and is_exact(standing.guaranteed.bound):
                kept.standing = standing
        return self._view(standing, exact, kept.trace, kept.holdings, drift, now)

    def _is_exact(self, account: Account, holdings: Holdings) -> bool:
        """Whether what was spent is known and not only a quick figure; asked before it is used.

        A loose one gives way to all that is approved, whose figure does not show it.
        """
        steps = budget.spent(holdings)
        return is_exact(budget.accrued(account, holdings, steps, account.delta, self.bounds.get))

    def _view(
        self,
        standing: BudgetStatus,
        exact: bool,
        trace: Activity,
        holdings: Holdings,
        drift: str,
        now: datetime,
    ) -> AccountView:
        account = standing.account
        open_since = min((one.since for one in trace.open.values()), default=None)
        accrued = standing.accrued.bound
        reached = threshold(accrued.epsilon / account.budget) if exact else 0.0
        return AccountView(
            name=account.name,
            reached=reached,
            sequence=account.sequence,
            head=account.head,
            delta=account.delta,
            budget=account.budget,
            guaranteed=standing.guaranteed,
            approved=standing.approved,
            accrued=standing.accrued,
            accrued_is_exact=exact,
            promised=standing.promised,
            left=standing.left,
            run=trace.run,
            rounds_left=_rounds_left(trace, holdings),
            last_seen=trace.last_seen,
            asked_since=trace.asked_since,
            ends=dict(trace.ends),
            refusals={end: trace.ends[end] for end in REFUSALS if trace.ends[end]},
            open_rounds=len(trace.open),
            open_since=open_since,
            silent=_is_over(trace.asked_since, self._silent_after, now),
            orphaned=_is_over(open_since, self._orphan_after, now),
            drift=drift,
        )


def _is_recent(overview: Overview, now: datetime) -> bool:
    return abs(now - overview.at) < timedelta(seconds=FRESH_SECONDS)


def _found(connection: sa.Connection, name: AccountName) -> Account:
    try:
        check_name(name)
        account = queries.find_account(connection, name)
    except InputError as error:
        raise UnknownAccount(f"there is no such account: {error}") from error
    except LedgerError as error:  # of a row: a database's own failure is another
        raise DamagedAccount(str(error)) from error
    if account is None:
        raise UnknownAccount(f"there is no account {name}")
    return account


def _is_over(since: datetime | None, limit: timedelta, now: datetime) -> bool:
    return since is not None and now - since > limit


def _drifts(connection: sa.Connection) -> Mapping[int, str]:
    table = schema.peer.c
    chosen = sa.select(table.account_id, table.drift).where(table.drift != "")
    return {row.account_id: row.drift for row in connection.execute(chosen)}


def _witnesses(connection: sa.Connection, account_id: int) -> tuple[Witness, ...]:
    table = schema.peer.c
    chosen = sa.select(table.ledger, table.sequence, table.head, table.drift)
    chosen = chosen.where(table.account_id == account_id).order_by(table.ledger)
    return tuple(Witness(*row) for row in connection.execute(chosen))


def _rounds_left(trace: Activity, holdings: Holdings) -> int | None:
    """Rounds of the run asked last, each as many steps as its last one."""
    if not trace.counts:
        return None
    left = {
        mechanism: held.allotted - held.reserved - held.committed - held.voided
        for (run, mechanism), held in holdings.items()
        if run == trace.run
    }
    return min(left.get(mechanism, 0) // steps for mechanism, steps in trace.counts)
