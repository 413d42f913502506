"""Bounds on fixed compositions: quick ones for many at once, the smallest ones stored.

Only counts are recorded: a stored bound that is lost, or was computed by another version
of an accountant, is computed again.
"""

import hashlib
from collections.abc import Iterable, Sequence

import sqlalchemy as sa

from dpbitfit.accounting import composition
from dpbitfit.accounting.composition import Bound
from dpbitfit.accounting.mechanism import Counts
from dpbitfit.accounting.renyi import quick_epsilons
from dpbitfit.ledger import queries, schema
from dpbitfit.ledger.canonical import counts_to_text, number_to_text

QUICK = "RDP (quick)"  # the accountant of a valid upper bound that is a little loose


def is_quick(bound: Bound) -> bool:
    """Whether a smaller bound on the same composition can be computed."""
    return bound.accountant == QUICK


def quick_bounds(compositions: Sequence[Counts], delta: float) -> list[Bound]:
    """Quick upper bounds of many compositions at one delta."""
    version = composition.version_of("RDP")
    return [
        Bound(value, delta, QUICK, version, 0.0) if counts else composition.epsilon({}, delta)
        for counts, value in zip(compositions, quick_epsilons(compositions, delta), strict=True)
    ]


def stored_bounds(
    connection: sa.Connection, places: Iterable[tuple[Counts, float]]
) -> dict[tuple[Counts, float], Bound]:
    """By counts and delta, the stored bounds of the accountants that are installed."""
    wanted = {(_digest(counts), number_to_text(delta)): (counts, delta) for counts, delta in places}
    table = schema.figure
    bounds = {}
    for chunk in queries.chunks({digest for digest, _ in wanted}):
        for row in connection.execute(sa.select(table).where(table.c.counts.in_(chunk))):
            place = wanted.get((row.counts, row.delta))
            if place and row.version == composition.version_of(row.accountant):
                computed = (row.accountant, row.version, row.lower)
                bounds[place] = Bound(row.epsilon, place[1], *computed)
    return bounds


def store_bound(connection: sa.Connection, counts: Counts, bound: Bound) -> None:
    """Store a bound in the place of any other on the same counts at its delta."""
    key = {"counts": _digest(counts), "delta": number_to_text(bound.delta)}
    names = ("epsilon", "lower", "accountant", "version")
    values = {name: getattr(bound, name) for name in names}
    table = schema.figure
    connection.execute(sa.delete(table).where(*queries.equal(table, key)))
    connection.execute(sa.insert(table).values(**key, **values))


def _digest(counts: Counts) -> str:
    """The place of a bound on these counts, by the method of this version."""
    return hashlib.sha256(f"{composition.METHOD} {counts_to_text(counts)}".encode()).hexdigest()
