"""What this ledger remembers of the other side: one row for each ledger that has spoken."""

import json
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import sqlalchemy as sa

from dpbitfit.accounting.composition import Counts, Mechanism, checked, merged
from dpbitfit.errors import LedgerError
from dpbitfit.ledger import queries, schema
from dpbitfit.ledger.events import counts_from_text, counts_to_text

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
    """Everybody who has spoken of an account, by ledger."""
    table = schema.peer
    chosen = sa.select(*(table.c[name] for name in Peer._fields))
    mine = connection.execute(chosen.where(table.c.account_id == account_id))
    return {row.ledger: Peer(*row) for row in mine}


def save(connection: sa.Connection, peer: Peer) -> None:
    """Put a row in the place of what is known of its ledger."""
    table, values = schema.peer, peer._asdict()
    here = queries.equal(table, {name: values[name] for name in ("account_id", "ledger")})
    if not connection.execute(sa.update(table).where(*here).values(**values)).rowcount:
        connection.execute(sa.insert(table).values(**values))


def forget(connection: sa.Connection, account_id: int, ledgers: Iterable[str]) -> None:
    """Forget ledgers that speak no more."""
    table = schema.peer
    mine = (table.c.account_id == account_id) & table.c.ledger.in_(list(ledgers))
    connection.execute(sa.delete(table).where(mine))


def runs_of(connection: sa.Connection, account_id: int, coordinator: str) -> Runs:
    """The steps that each run of a coordinator has reserved or committed."""
    table = schema.allotment
    here = {"account_id": account_id, "coordinator": coordinator}
    found: dict[str, dict[Mechanism, int]] = {}
    for row in connection.execute(sa.select(table).where(*queries.equal(table, here))):
        found.setdefault(row.run, {})[queries.to_mechanism(row)] = row.reserved + row.committed
    return {run: counts for run, of in found.items() if (counts := checked(of))}


def total(runs: Runs) -> Counts:
    """The steps of all runs together."""
    return merged(one for counts in runs.values() for one in counts)


def missing(counts: Counts, within: Counts) -> Counts:
    """The steps of ``counts`` that ``within`` does not hold."""
    have = dict(within)
    return checked({m: max(0, n - have.get(m, 0)) for m, n in counts})


def lacking(runs: Runs, within: Runs) -> Runs:
    """Of every run, the steps that ``within`` does not hold; runs without any left out."""
    found = {run: missing(counts, within.get(run, ())) for run, counts in runs.items()}
    return {run: counts for run, counts in found.items() if counts}


def larger(one: Runs, other: Runs) -> Runs:
    """Of every run and mechanism, the larger count of the two."""
    more = lacking(other, one)
    return {run: merged((*one.get(run, ()), *more.get(run, ()))) for run in {**one, **other}}


def runs_to_text(runs: Runs) -> str:
    """Runs as canonical JSON."""
    said = {run: json.loads(counts_to_text(counts)) for run, counts in runs.items()}
    return json.dumps(said, sort_keys=True, separators=(",", ":"))


def runs_from_text(text: str) -> Runs:
    """The runs of a text; LedgerError for one that cannot be read."""
    try:
        said = json.loads(text).items()
        found = {
            run: counts_from_text(json.dumps(counts, separators=(",", ":"))) for run, counts in said
        }
    except (ValueError, AttributeError, RecursionError) as error:
        raise LedgerError("the counts of runs cannot be read") from error
    if any(not 0 < len(run) <= schema.RUN_LENGTH or not run.isprintable() for run in found):
        raise LedgerError("the counts of runs name none")
    return found
