"""Alembic's entry: migrates the connection that ``Database.migrate`` hands over."""

from alembic import context

from dpbitfit.ledger.schema import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    transactional_ddl=False,  # the caller's transaction holds all of it
)
context.run_migrations()
