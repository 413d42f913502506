"""What each run may still do to an account."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from dpbitfit.accounting.mechanism import Counts, merged
from dpbitfit.ledger import budget, queries, schema
from dpbitfit.ledger.canonical import counts_from_text
from dpbitfit.ledger.fold import Allotment, Allotments


@dataclass(frozen=True)
class RunStatus:
    """What one run may still do to an account.

    ``rounds_left`` counts rounds like the last one, which are those of its phase; it is None
    before the first, which shows how many steps one takes.
    """

    run: str
    plan: str
    coordinator: str
    adaptive: bool
    allotted: Counts
    spent: Counts
    left: Counts
    rounds_left: int | None


def run_statuses(connection: sa.Connection, account_id: int) -> list[RunStatus]:
    """Every run that was approved for an account, by name, and what it has left."""
    allotments = queries.allotments_of(connection, [account_id])[account_id]
    table, rounds = schema.allotment, schema.reservation
    named = sa.select(table.c.run, table.c.plan, table.c.coordinator).distinct()
    named = named.where(table.c.account_id == account_id).order_by(table.c.run)
    taken = sa.select(rounds.c.run, rounds.c.counts).order_by(rounds.c.round)
    taken = taken.where(rounds.c.account_id == account_id, rounds.c.state != "void")
    runs = connection.execute(named).all()
    steps = {row.run: counts_from_text(row.counts) for row in connection.execute(taken)}
    return [_run_status(row, allotments, steps.get(row.run, ())) for row in runs]


def _run_status(row: Any, allotments: Allotments, steps: Counts) -> RunStatus:
    own = {place: allotment for place, allotment in allotments.items() if place[0] == row.run}

    def sums(count: Callable[[Allotment], int]) -> Counts:
        return merged((mechanism, count(allotment)) for (_, mechanism), allotment in own.items())

    left = sums(lambda allotment: allotment.left)
    have = dict(left)
    return RunStatus(
        run=row.run,
        plan=row.plan,
        coordinator=row.coordinator,
        adaptive=budget.is_adaptive(own),
        allotted=sums(lambda allotment: allotment.allotted),
        spent=sums(lambda allotment: allotment.spent),
        left=left,
        rounds_left=min(have.get(m, 0) // n for m, n in steps) if steps else None,
    )
