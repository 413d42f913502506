"""Epsilon of an account, derived from its counts.

Two figures everywhere: *guaranteed*, a bound that holds whatever is done, and
*accrued*, informative: what has been spent of it.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from dpbitfit.accounting import composition
from dpbitfit.accounting.composition import Bound
from dpbitfit.accounting.mechanism import Counts
from dpbitfit.errors import LedgerError
from dpbitfit.ledger import budget
from dpbitfit.ledger.account import Account
from dpbitfit.ledger.bounds import quick_bounds, store_bound
from dpbitfit.ledger.budget import Epsilon
from dpbitfit.ledger.fold import Allotments
from dpbitfit.ledger.reader import Reader
from dpbitfit.ledger.runs import RunStatus

CURVE_DELTAS = (1e-10, 1e-8, 1e-6, 1e-5, 1e-4, 1e-2)

FIXED = "every step that was ever approved, before any result was seen; used or not"
FILTERED = (
    "plans were added after results were seen, so it is the filter's budget, used or not, or what "
    "was approved above it; it holds for a budget that is not changed in view of results"
)
INFORMATIVE = "informative, not a bound"
ACCRUED = f"{INFORMATIVE}: the steps that were made or may have been made"
_SAME = 1e-4  # two computations of one figure differ by less, relative to it


@dataclass(frozen=True)
class EpsilonBound:
    """An epsilon, and in plain words what it is of and whether it is a bound."""

    bound: Bound
    basis: str

    def describe(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {**vars(self.bound), "basis": self.basis}


@dataclass(frozen=True)
class BudgetStatus:
    """An account's two figures; epsilon in both, at the account's delta.

    ``approved`` is what every approved step takes of the budget: once plans depend on
    results it is less than what is guaranteed.
    """

    account: Account
    guaranteed: EpsilonBound
    approved: Bound
    accrued: EpsilonBound

    @property
    def promised(self) -> float:
        """The guaranteed epsilon."""
        return self.guaranteed.bound.epsilon

    @property
    def left(self) -> float:
        """Epsilon of the budget that no plan has been approved for."""
        return max(0.0, self.account.budget - self.approved.epsilon)


def budget_status(ledger: Reader, account: Account) -> BudgetStatus:
    """The smallest valid figures of one account: seconds when new, else as stored.

    Raises AccountingError as ``composition.epsilon`` does.
    """
    allotments = ledger.allotments([account.id])[account.id]
    return derive_status(account, allotments, partial(stored_epsilon, ledger))


def budget_statuses(ledger: Reader) -> list[BudgetStatus]:
    """Both figures of every account at once, by name.

    Stored bounds where there are any; else quick upper bounds.
    """
    accounts = ledger.accounts()
    allotments = ledger.allotments([account.id for account in accounts])
    wanted = {
        (counts, account.delta): None
        for account in accounts
        for counts in fixed_compositions(allotments[account.id])
    }
    with ledger.snapshot() as snapshot:
        bounds = snapshot.bounds(wanted)
    for delta in {delta for _, delta in wanted}:
        new = [counts for counts, at in wanted if at == delta and (counts, at) not in bounds]
        quick = zip(new, quick_bounds(new, delta), strict=True)
        bounds |= {(counts, delta): bound for counts, bound in quick}
    return [
        derive_status(account, allotments[account.id], lambda *place: bounds[place])
        for account in accounts
    ]


def verified_status(ledger: Reader, account: Account, allotments: Allotments) -> BudgetStatus:
    """Both figures from counts alone; ``allotments`` is what an account's events add up to.

    Raises LedgerError where another bound was stored for the same counts.
    """

    def computed(counts: Counts, delta: float) -> Bound:
        bound = composition.epsilon(dict(counts), delta)
        with ledger.snapshot() as snapshot:
            stored = snapshot.bounds([(counts, delta)]).get((counts, delta), bound)
        if abs(stored.epsilon - bound.epsilon) > _SAME * max(1.0, bound.epsilon):
            raise LedgerError(
                f"account {account.name}: an epsilon of {stored.epsilon:.4f} was stored where its "
                f"events give {bound.epsilon:.4f}: the database was edited; export its events "
                "and import them into a new ledger"
            )
        return bound

    return derive_status(account, allotments, computed)


def derive_status(account: Account, allotments: Allotments, epsilon: Epsilon) -> BudgetStatus:
    """Both figures of an account, by the given bounds on fixed compositions."""
    guaranteed = budget.guaranteed(account, allotments, account.delta, epsilon)
    approved = budget.committed(account, allotments, account.delta, epsilon)
    spent = budget.spent(allotments)
    accrued = budget.accrued(account, allotments, spent, account.delta, epsilon)
    # What was spent is part of what was approved, whichever bound is the looser.
    smaller = min(accrued, approved, key=lambda bound: bound.epsilon)
    basis = FILTERED if budget.is_adaptive(allotments) else FIXED
    return BudgetStatus(
        account, EpsilonBound(guaranteed, basis), approved, EpsilonBound(smaller, ACCRUED)
    )


def fixed_compositions(allotments: Allotments) -> list[Counts]:
    """What an account's figures need tight bounds on; nothing once a filter decides."""
    if budget.is_adaptive(allotments):
        return []
    return [budget.approved(allotments), budget.spent(allotments)]


def guaranteed_curve(account: Account, allotments: Allotments, epsilon: Epsilon) -> list[Bound]:
    """The guaranteed epsilon at a handful of deltas, the account's own among them."""
    return [
        budget.guaranteed(account, allotments, delta, epsilon)
        for delta in sorted({*CURVE_DELTAS, account.delta})
    ]


def stored_curve(ledger: Reader, account: Account) -> list[Bound]:
    """``guaranteed_curve`` by stored bounds: seconds when new."""
    allotments = ledger.allotments([account.id])[account.id]
    return guaranteed_curve(account, allotments, partial(stored_epsilon, ledger))


def stored_epsilon(ledger: Reader, counts: Counts, delta: float) -> Bound:
    """``composition.epsilon``, computed once for each installed version of the accountants."""
    place = (counts, delta)
    with ledger.snapshot() as snapshot:
        known = snapshot.bounds([place])
    if place in known:
        return known[place]
    bound = composition.epsilon(dict(counts), delta)
    # A ledger that cannot be written, or is busy, withholds no figure.
    with suppress(LedgerError), ledger.database.write() as connection:
        store_bound(connection, counts, bound)
    return bound


def describe_counts(counts: Counts) -> list[dict[str, float | int]]:
    """Counts as JSON can hold them."""
    return [{**vars(mechanism), "steps": steps} for mechanism, steps in counts]


def describe_bounds(bounds: Iterable[Bound]) -> list[dict[str, Any]]:
    """A curve as JSON can hold it."""
    return [dict(vars(bound)) for bound in bounds]


def describe_run(run: RunStatus) -> dict[str, Any]:
    """A run as JSON can hold it."""
    counts = {name: describe_counts(getattr(run, name)) for name in ("allotted", "spent", "left")}
    return {**vars(run), **counts}
