"""The public key is read without the seed, which moves into a table of its own.

``identity`` stays the table that it is: a user who was granted it reads the public key now.
"""

import sqlalchemy as sa
from alembic import op

from dpbitfit.ledger.identity import signer_of

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Move the seed, and put its public key in its place."""
    op.create_table(
        "signing_key",
        sa.Column("seed", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("seed"),
    )
    op.execute("INSERT INTO signing_key SELECT seed FROM identity")
    connection = op.get_bind()
    change = sa.text("UPDATE identity SET seed = :public WHERE seed = :seed")
    for seed in connection.scalars(sa.text("SELECT seed FROM signing_key")).all():
        connection.execute(change, {"public": signer_of(seed).public, "seed": seed})
    op.alter_column("identity", "seed", new_column_name="public")
