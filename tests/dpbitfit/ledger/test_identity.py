"""The ledger's key: its public half for all who read, its seed for the signer alone."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from dpbitfit.errors import LedgerError
from dpbitfit.ledger import Ledger, schema
from dpbitfit.protocol.signing import Signer, verify

from ...support.ledgers import NAME, account, new_ledger

Reopen = Callable[..., Ledger]
STATEMENT = {"key": "k"}
OTHER_SEED = "17" * 32


def test_who_writes_signs_by_the_ledgers_id(ledger: Ledger, url: str, reopen: Reopen) -> None:
    again = reopen(url)
    assert again.id == reopen(url, create=True).id == ledger.id
    verify(ledger.id, "reply", STATEMENT, again.signer.sign("reply", STATEMENT))


def test_who_reads_knows_the_id_and_signs_nothing(ledger: Ledger, url: str, reopen: Reopen) -> None:
    only = reopen(url, readonly=True)
    assert only.id == ledger.id
    with pytest.raises(LedgerError, match="signs nothing"):
        only.signer.sign("reply", STATEMENT)


@pytest.mark.parametrize("create", [False, True])
@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (f"UPDATE signing_key SET seed = '{OTHER_SEED}'", "not that of its id"),
        (f"INSERT INTO signing_key VALUES ('{OTHER_SEED}')", "not that of its id"),
        ("DELETE FROM signing_key", "key is missing"),
        ("UPDATE signing_key SET seed = 'seed'", "key is damaged"),
        ("UPDATE signing_key SET seed = '17'", "key is damaged"),
    ],
)
def test_a_key_that_is_not_the_ids_is_refused_where_it_would_sign(
    ledger: Ledger, url: str, reopen: Reopen, harm: str, problem: str, create: bool
) -> None:
    account(ledger)
    with ledger.database.write() as connection:
        connection.execute(sa.text(harm))
    with pytest.raises(LedgerError, match=problem):
        reopen(url, create=create)
    only = reopen(url, readonly=True)
    assert only.id == ledger.id
    only.verify(only.account(NAME))


@pytest.mark.parametrize("create", [False, True])
def test_a_ledger_that_lost_its_id_gets_no_other(
    ledger: Ledger, url: str, reopen: Reopen, create: bool
) -> None:
    with ledger.database.write() as connection:
        connection.execute(sa.delete(schema.identity))
    with pytest.raises(LedgerError, match="does not say which ledger it is"):
        reopen(url, create=create)


def test_a_copy_without_the_key_shows_all_and_signs_nothing(tmp_path: Path, reopen: Reopen) -> None:
    ledger = new_ledger(tmp_path)
    of = account(ledger)
    with ledger.database.read() as connection:
        seed = connection.scalar(sa.select(schema.signing_key.c.seed))
    assert seed is not None
    assert Signer.from_hex(seed).public == ledger.id
    copy = tmp_path / "copy.sqlite"
    for path, statements in (
        (str(ledger.database), f"VACUUM INTO '{copy}'"),
        (copy, "DELETE FROM signing_key; VACUUM"),
    ):
        with closing(sqlite3.connect(path)) as connection:
            connection.executescript(statements)
    assert seed.encode() not in copy.read_bytes()
    only = reopen(str(copy), readonly=True)
    assert (only.id, only.accounts()) == (ledger.id, ledger.accounts())
    only.verify(of)
    with pytest.raises(LedgerError, match="may only be read"):
        reopen(str(copy))
