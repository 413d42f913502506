"""A site's replies, stored in the transaction that commits their round.

The same request gets the same bytes, free; fresh noise would be a second
release. Only a run's newest reply keeps its bytes: a later request shows that
the earlier ones have arrived.
"""

from dataclasses import dataclass

import sqlalchemy as sa

from dpbitfit.ledger import schema


@dataclass(frozen=True)
class Reply:
    """A reply; ``request`` is the digest of the whole request."""

    key: str
    request: str
    payload: bytes | None


def store(connection: sa.Connection, reply: Reply) -> None:
    """Store a reply, and delete the bytes of those that it follows."""
    table, rounds = schema.reply, schema.reservation
    mine = sa.select(rounds.c.account_id, rounds.c.run).where(rounds.c.key == reply.key)
    account_id, run = connection.execute(mine).one()
    same = sa.select(rounds.c.key).where(rounds.c.account_id == account_id, rounds.c.run == run)
    connection.execute(sa.update(table).where(table.c.key.in_(same)).values(payload=None))
    connection.execute(sa.insert(table).values(**vars(reply)))


def find(connection: sa.Connection, key: str) -> Reply | None:
    """The reply to a key."""
    return _reply(connection, schema.reply.c.key == key)


def newest(connection: sa.Connection, account_id: int, run: str) -> Reply | None:
    """The reply of a run that still has its bytes."""
    rounds = schema.reservation
    same = sa.select(rounds.c.key).where(rounds.c.account_id == account_id, rounds.c.run == run)
    table = schema.reply
    return _reply(connection, table.c.key.in_(same) & table.c.payload.is_not(None))


def _reply(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> Reply | None:
    row = connection.execute(sa.select(schema.reply).where(condition)).one_or_none()
    return None if row is None else Reply(row.key, row.request, row.payload)
