"""Which ledger this is: a public key for all readers, and a seed for the process that signs.

They lie in two tables, so that a database's user may read the one without the other.
"""

import os

import sqlalchemy as sa

from dpbitfit.errors import LedgerError
from dpbitfit.ledger import schema
from dpbitfit.ledger.database import RESTORE, Database
from dpbitfit.protocol.signing import Signer


def make(database: Database) -> None:
    """Give a new ledger its key; one that has any part of a key keeps what it has."""
    with database.write() as connection:
        for table in (schema.identity, schema.signing_key):
            if connection.execute(sa.select(table)).first():
                return
        seed = os.urandom(32).hex()
        connection.execute(sa.insert(schema.signing_key).values(seed=seed))
        connection.execute(sa.insert(schema.identity).values(public=signer_of(seed).public))


def read_public(database: Database) -> str:
    """The public key, without a look at the seed; LedgerError where there is not one."""
    with database.read() as connection:
        keys: list[str] = [*connection.scalars(sa.select(schema.identity.c.public))]
    if len(keys) != 1:
        raise LedgerError(f"{database}: it does not say which ledger it is")
    return keys[0]


def read_signer(database: Database, public: str) -> Signer:
    """The key that signs for ``public``; LedgerError where its seed is missing or damaged."""
    with database.read() as connection:
        seeds: list[str] = [*connection.scalars(sa.select(schema.signing_key.c.seed))]
    signers = [signer_of(seed) for seed in seeds]
    if [signer.public for signer in signers] != [public]:
        raise LedgerError(
            f"{database}: its signing key is missing or not that of its id: it may only be read"
        )
    return signers[0]


def signer_of(seed: str) -> Signer:
    """The signer of a seed as it is stored; LedgerError where that is damaged."""
    try:
        return Signer.from_hex(seed)
    except ValueError as error:
        raise LedgerError(f"the ledger's signing key is damaged: {RESTORE}") from error
