"""Adding to accounts' chains of events, inside a transaction of the ledger."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from dpbitfit.ledger import schema
from dpbitfit.ledger.account import Account
from dpbitfit.ledger.encoding import write
from dpbitfit.ledger.events import Content, Entry


def append(
    connection: sa.Connection,
    contents: Iterable[tuple[Account, Content]],
    causes: Mapping[int, str] | str = "",
) -> None:
    """Add one event to each account, none of them twice.

    ``causes`` is the coordinator whose request the events follow from, or that of each
    account, by id; "" for what the ledger's own operator did.
    """
    at = datetime.now(UTC)
    events = [
        (account.id, write(Entry(account.name, account.sequence + 1, account.head, at, content)))
        for account, content in contents
    ]
    if not events:
        return
    rows = [
        {
            "account_id": account_id,
            **vars(event),
            "coordinator": causes if isinstance(causes, str) else causes[account_id],
        }
        for account_id, event in events
    ]
    connection.execute(sa.insert(schema.event), rows)
    table = schema.account
    change = sa.update(table).where(table.c.id == sa.bindparam("account_id"))
    columns: dict[str, Any] = {"sequence": sa.bindparam("last"), "head": sa.bindparam("hash")}
    heads = [
        {"account_id": account_id, "last": event.sequence, "hash": event.hash}
        for account_id, event in events
    ]
    connection.execute(change.values(**columns), heads)
