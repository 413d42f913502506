"""Epsilon of an account, derived from its counts, and remembered with who says so.

Two figures everywhere: *guaranteed*, a bound that holds whatever is done, and
*accrued*, informative: what has been spent of it. Only counts are recorded; a figure
that is lost or was made by another version of an accountant is made again.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import sqlalchemy as sa

from dpbitfit.accounting import composition
from dpbitfit.accounting.composition import Bound, Counts, merged
from dpbitfit.accounting.renyi import quick_epsilons
from dpbitfit.errors import LedgerError
from dpbitfit.ledger import budget, queries, schema
from dpbitfit.ledger.budget import Account, Epsilon, Holdings
from dpbitfit.ledger.events import Held, canonical, counts_from_text, counts_to_text
from dpbitfit.ledger.reader import Reader

CURVE_DELTAS = (1e-10, 1e-8, 1e-6, 1e-5, 1e-4, 1e-2)
QUICK = "RDP (quick)"  # a valid upper bound, a little loose

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


@dataclass(frozen=True)
class RunStatus:
    """What one run may still do to an account.

    ``rounds_left`` is None before its first round, which shows how many steps one takes.
    """

    run: str
    plan: str
    coordinator: str
    adaptive: bool
    allotted: Counts
    spent: Counts
    left: Counts
    rounds_left: int | None


def standing(ledger: Reader, account: Account) -> BudgetStatus:
    """The smallest valid figures of one account: seconds when new, else remembered.

    Raises AccountingError as ``composition.epsilon`` does.
    """
    holdings = ledger.holdings([account.id])[account.id]
    return derive(account, holdings, partial(remembered, ledger))


def standings(ledger: Reader) -> list[BudgetStatus]:
    """Both figures of every account at once, by name.

    Remembered ones where there are any; else quick upper bounds, whose
    accountant is ``QUICK``.
    """
    accounts = ledger.accounts()
    holdings = ledger.holdings([one.id for one in accounts])
    wanted = {(bag, one.delta): None for one in accounts for bag in fixed_bags(holdings[one.id])}
    with ledger.database.read() as connection:
        known = kept_figures(connection, wanted)
    for delta in {delta for _, delta in wanted}:
        bags = [bag for bag, of in wanted if of == delta and (bag, of) not in known]
        known |= {(one, delta): bound for one, bound in zip(bags, quick(bags, delta), strict=True)}
    return [derive(one, holdings[one.id], lambda *of: known[of]) for one in accounts]


def quick(bags: Sequence[Counts], delta: float) -> list[Bound]:
    """Quick upper bounds of many bags at one delta."""
    version = composition.version_of("RDP")
    return [
        Bound(value, delta, QUICK, version, 0.0) if bag else composition.epsilon({}, delta)
        for bag, value in zip(bags, quick_epsilons(bags, delta), strict=True)
    ]


def recomputed(ledger: Reader, account: Account, held: Holdings) -> BudgetStatus:
    """Both figures from an account's counts alone; ``held`` is what its events add up to.

    Raises LedgerError where another figure was remembered for the same counts.
    """

    def afresh(counts: Counts, delta: float) -> Bound:
        bound = composition.epsilon(dict(counts), delta)
        with ledger.database.read() as connection:
            kept = kept_figures(connection, [(counts, delta)]).get((counts, delta), bound)
        if abs(kept.epsilon - bound.epsilon) > _SAME * max(1.0, bound.epsilon):
            raise LedgerError(
                f"account {account.name}: an epsilon of {kept.epsilon:.4f} was kept where its "
                f"events give {bound.epsilon:.4f}: the database was edited; export its events "
                "and import them into a new ledger"
            )
        return bound

    return derive(account, held, afresh)


def curve(ledger: Reader, account: Account) -> list[Bound]:
    """The guaranteed epsilon at a handful of deltas, the account's own among them."""
    holdings = ledger.holdings([account.id])[account.id]
    return curve_of(account, holdings, partial(remembered, ledger))


def curve_of(account: Account, holdings: Holdings, epsilon: Epsilon) -> list[Bound]:
    """The same, by the given bounds on fixed bags."""
    return [
        budget.guaranteed(account, holdings, delta, epsilon)
        for delta in sorted({*CURVE_DELTAS, account.delta})
    ]


def run_standings(ledger: Reader, account: Account) -> list[RunStatus]:
    """Every run that was approved for an account, by name, and what it has left."""
    holdings = ledger.holdings([account.id])[account.id]
    table, rounds = schema.allotment, schema.reservation
    named = sa.select(table.c.run, table.c.plan, table.c.coordinator).distinct()
    taken = sa.select(rounds.c.run, rounds.c.counts).order_by(rounds.c.round)
    taken = taken.where(rounds.c.account_id == account.id, rounds.c.state != "void")
    with ledger.database.read() as connection:
        runs = connection.execute(
            named.where(table.c.account_id == account.id).order_by(table.c.run)
        ).all()
        steps = {row.run: counts_from_text(row.counts) for row in connection.execute(taken)}
    return [_run_standing(row, holdings, steps.get(row.run, ())) for row in runs]


def remembered(ledger: Reader, counts: Counts, delta: float) -> Bound:
    """``composition.epsilon``, computed once for each installed version of the accountants."""
    place = (counts, delta)
    with ledger.database.read() as connection:
        known = kept_figures(connection, [place])
    if place in known:
        return known[place]
    bound = composition.epsilon(dict(counts), delta)
    # A ledger that cannot be written, or is busy, keeps no figure from anyone.
    with suppress(LedgerError), ledger.database.write() as connection:
        key = {"counts": _digest(counts), "delta": canonical(delta)}
        said = {name: getattr(bound, name) for name in ("epsilon", "lower", "accountant")}
        table = schema.figure
        connection.execute(sa.delete(table).where(*queries.equal(table, key)))
        connection.execute(sa.insert(table).values(**key, **said, version=bound.version))
    return bound


def derive(account: Account, holdings: Holdings, epsilon: Epsilon) -> BudgetStatus:
    """Both figures of an account that holds so much, by the given bounds on fixed bags."""
    guaranteed = budget.guaranteed(account, holdings, account.delta, epsilon)
    approved = budget.committed(account, holdings, account.delta, epsilon)
    accrued = budget.accrued(account, holdings, budget.spent(holdings), account.delta, epsilon)
    # What was spent is part of what was approved, whichever bound is the looser.
    smaller = min(accrued, approved, key=lambda bound: bound.epsilon)
    basis = FILTERED if budget.is_adaptive(holdings) else FIXED
    return BudgetStatus(
        account, EpsilonBound(guaranteed, basis), approved, EpsilonBound(smaller, ACCRUED)
    )


def fixed_bags(holdings: Holdings) -> list[Counts]:
    """The bags whose tight bounds an account's figures need; none once a filter decides."""
    if budget.is_adaptive(holdings):
        return []
    return [budget.approved(holdings), budget.spent(holdings)]


def _run_standing(row: Any, holdings: Holdings, steps: Counts) -> RunStatus:
    mine = {mechanism: held for (run, mechanism), held in holdings.items() if run == row.run}

    def sums(count: Callable[[Held], int]) -> Counts:
        return merged((mechanism, count(held)) for mechanism, held in mine.items())

    left = sums(lambda held: held.left)
    have = dict(left)
    return RunStatus(
        run=row.run,
        plan=row.plan,
        coordinator=row.coordinator,
        adaptive=budget.is_adaptive(
            {(row.run, mechanism): held for mechanism, held in mine.items()}
        ),
        allotted=sums(lambda held: held.allotted),
        spent=sums(lambda held: held.spent),
        left=left,
        rounds_left=min(have.get(m, 0) // n for m, n in steps) if steps else None,
    )


def kept_figures(
    connection: sa.Connection, places: Iterable[tuple[Counts, float]]
) -> dict[tuple[Counts, float], Bound]:
    """The figures that were remembered from the accountants that are installed."""
    wanted = {(_digest(counts), canonical(delta)): (counts, delta) for counts, delta in places}
    table = schema.figure
    found = {}
    for chunk in queries.chunks({digest for digest, _ in wanted}):
        for row in connection.execute(sa.select(table).where(table.c.counts.in_(chunk))):
            place = wanted.get((row.counts, row.delta))
            if place and row.version == composition.version_of(row.accountant):
                said = (row.accountant, row.version, row.lower)
                found[place] = Bound(row.epsilon, place[1], *said)
    return found


def _digest(counts: Counts) -> str:
    return hashlib.sha256(counts_to_text(counts).encode()).hexdigest()


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
