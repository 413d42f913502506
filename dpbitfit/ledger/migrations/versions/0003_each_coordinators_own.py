"""Each event knows whose request it follows from, and each peer its counts of every run.

Positions count a coordinator's own events from now on: those that were stated
before say nothing to compare with, and are forgotten.
"""

import json

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the columns, and name the coordinator of every event."""
    text = sa.Column("coordinator", sa.String(length=64), nullable=False, server_default="")
    op.add_column("event", text)
    op.create_index("event_of_coordinator", "event", ["account_id", "coordinator", "sequence"])
    op.add_column("peer", sa.Column("runs", sa.Text(), nullable=False, server_default="{}"))
    for name in ("rebased", "wanted"):
        number = sa.Column(name, sa.Integer(), nullable=False, server_default="0")
        op.add_column("peer", number)
    op.execute("UPDATE peer SET sequence = 0, head = ''")
    op.execute("UPDATE peer SET wanted = 1 WHERE drift <> ''")
    connection = op.get_bind()
    for account in connection.scalars(sa.text("SELECT id FROM account")).all():
        _name_coordinators(connection, account)


def _name_coordinators(connection: sa.Connection, account: int) -> None:
    chosen = sa.text("SELECT sequence, kind, body FROM event WHERE account_id = :id ORDER BY 1")
    change = sa.text(
        "UPDATE event SET coordinator = :whose WHERE account_id = :id AND sequence = :sequence"
    )
    of_run: dict[str, str] = {}
    of_key: dict[str, str] = {}
    named = []
    for sequence, kind, body in connection.execute(chosen, {"id": account}).all():
        facts = json.loads(body)
        whose = ""
        if kind in ("allot", "rebase"):
            whose = of_run.setdefault(facts["run"], facts["coordinator"])
        elif kind == "reserve":
            whose = of_key[facts["key"]] = of_run[facts["run"]]
        elif kind in ("commit", "release"):
            whose = of_key[facts["key"]]
        if whose:
            named.append({"whose": whose, "id": account, "sequence": sequence})
    if named:
        connection.execute(change, named)
