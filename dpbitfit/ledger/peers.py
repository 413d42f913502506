"""What is recorded of the other side: one row for each ledger that has sent a signed head."""

import json
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import sqlalchemy as sa

from dpbitfit.accounting.mechanism import Counts, Mechanism, checked, merged
from dpbitfit.errors import LedgerError
from dpbitfit.ledger import queries, schema
from dpbitfit.ledger.canonical import counts_from_json, counts_to_json, to_json

Runs = Mapping[str, Counts]  # the steps of each run


class Peer(NamedTuple):
    """The table's columns; see there."""

    account_id: int
    ledger: str
    coordinator: str
    sequence: int = 0
    head: str = ""
    spent: str = "[]"
    drift: str = ""
    runs: str = "{}"
    rebased: int = 0
    wanted: int = 0


def find(connection: sa.Connection, account_id: int) -> dict[str, Peer]:
    """Every other side of an account, by its ledger's key."""
    table = schema.peer
    chosen = sa.select(*(table.c[name] for name in Peer._fields))
    mine = connection.execute(chosen.where(table.c.account_id == account_id))
    return {row.ledger: Peer(*row) for row in mine}


def drifts(connection: sa.Connection) -> dict[int, str]:
    """By account id, how a ledger disagrees with this one; only where one does."""
    table = schema.peer.c
    chosen = sa.select(table.account_id, table.drift).where(table.drift != "")
    return {row.account_id: row.drift for row in connection.execute(chosen)}


def save(connection: sa.Connection, peer: Peer) -> None:
    """Put a row in the place of what is known of its ledger."""
    table, values = schema.peer, peer._asdict()
    here = queries.equal(table, {name: values[name] for name in ("account_id", "ledger")})
    if not connection.execute(sa.update(table).where(*here).values(**values)).rowcount:
        connection.execute(sa.insert(table).values(**values))


def forget(connection: sa.Connection, account_id: int, ledgers: Iterable[str]) -> None:
    """Delete the rows of ledgers that were lost or replaced."""
    table = schema.peer
    mine = (table.c.account_id == account_id) & table.c.ledger.in_(list(ledgers))
    connection.execute(sa.delete(table).where(mine))


def runs_of(connection: sa.Connection, account_id: int, coordinator: str) -> Runs:
    """The steps that each run of a coordinator has reserved or committed."""
    table = schema.allotment
    here = {"account_id": account_id, "coordinator": coordinator}
    spent: dict[str, dict[Mechanism, int]] = {}
    for row in connection.execute(sa.select(table).where(*queries.equal(table, here))):
        spent.setdefault(row.run, {})[queries.to_mechanism(row)] = row.reserved + row.committed
    return {run: counts for run, steps in spent.items() if (counts := checked(steps))}


def total(runs: Runs) -> Counts:
    """The steps of all runs together."""
    return merged(pair for counts in runs.values() for pair in counts)


def missing(counts: Counts, within: Counts) -> Counts:
    """The steps of ``counts`` that ``within`` does not hold."""
    have = dict(within)
    return checked({m: max(0, n - have.get(m, 0)) for m, n in counts})


def lacking(runs: Runs, within: Runs) -> Runs:
    """Of every run, the steps that ``within`` does not hold; runs without any left out."""
    steps = {run: missing(counts, within.get(run, ())) for run, counts in runs.items()}
    return {run: counts for run, counts in steps.items() if counts}


def larger(ours: Runs, theirs: Runs) -> Runs:
    """Of every run and mechanism, the larger count of the two."""
    more = lacking(theirs, ours)
    return {run: merged((*ours.get(run, ()), *more.get(run, ()))) for run in {**ours, **theirs}}


def runs_to_text(runs: Runs) -> str:
    """Runs as canonical JSON."""
    by_run = {run: counts_to_json(counts) for run, counts in runs.items()}
    return to_json(by_run)


def runs_from_text(text: str) -> Runs:
    """The runs of a text; LedgerError for one that cannot be read."""
    try:
        runs = {run: counts_from_json(counts) for run, counts in json.loads(text).items()}
    except (ValueError, AttributeError, RecursionError) as error:
        raise LedgerError("the counts of runs cannot be read") from error
    if any(not 0 < len(run) <= schema.RUN_LENGTH or not run.isprintable() for run in runs):
        raise LedgerError("the counts of runs name none")
    return runs
