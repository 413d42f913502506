"""A ledger of the first form, brought to this one's: it stays the ledger that it is."""

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from dpbitfit.cli import main
from dpbitfit.errors import LedgerError
from dpbitfit.ledger import Ledger, schema
from dpbitfit.ledger import migrations as scripts
from dpbitfit.protocol.signing import Signer, verify

from ...support import postgres
from ...support.ledgers import NAME, account, new_ledger, run_rounds, steps

Reopen = Callable[..., Ledger]
SEED = "2a" * 32
STATEMENT = {"key": "k"}
CHANGED = (schema.identity, schema.signing_key)  # by 0002


@pytest.fixture
def source(tmp_path: Path) -> Ledger:
    """A ledger with an account and some rounds."""
    made = new_ledger(tmp_path, "source.sqlite")
    of = account(made)
    made.allot(NAME, "one", "plan", steps(100), "c" * 64)
    run_rounds(made, of, "one", 2, steps(10))
    return made


def connectable(url: str) -> sa.Engine:
    at = url.replace("postgresql:", "postgresql+psycopg:") if "://" in url else f"sqlite:///{url}"
    return sa.create_engine(at, poolclass=sa.NullPool)


def make_first(url: str, seed: str, source: Ledger) -> None:
    """The tables of 0001 with everything of ``source`` but its key."""
    config = Config()
    config.set_main_option("script_location", str(Path(str(scripts.__file__)).parent))
    with source.database.read() as reading, connectable(url).begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(sa.text("INSERT INTO identity VALUES (:seed)"), {"seed": seed})
        first = sa.MetaData()
        first.reflect(connection)
        for table in schema.metadata.sorted_tables:
            if table not in CHANGED:
                then = first.tables[table.name]
                rows = reading.execute(sa.select(*(table.c[column.name] for column in then.c)))
                if result := rows.mappings().all():
                    connection.execute(sa.insert(then), [dict(row) for row in result])


def seeds(url: str) -> list[str]:
    with connectable(url).connect() as connection:
        return [*connection.scalars(sa.text("SELECT seed FROM identity"))]


def migrate(url: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.argv", ["dpbitfit", "ledger", "migrate", "--ledger", url])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_a_first_ledger_asks_to_be_migrated(url: str, reopen: Reopen, source: Ledger) -> None:
    make_first(url, SEED, source)
    for readonly in (False, True):
        with pytest.raises(LedgerError, match="older form; run: dpbitfit ledger migrate"):
            reopen(url, readonly=readonly)
    assert seeds(url) == [SEED]


@pytest.mark.parametrize("by_command", [True, False])
def test_a_migrated_ledger_is_the_one_that_it_was(
    url: str, reopen: Reopen, source: Ledger, monkeypatch: pytest.MonkeyPatch, by_command: bool
) -> None:
    make_first(url, SEED, source)
    if by_command:
        assert migrate(url, monkeypatch) == 0
    ledger = reopen(url, create=not by_command)
    assert ledger.id == Signer.from_hex(SEED).public
    verify(ledger.id, "reply", STATEMENT, ledger.signer.sign("reply", STATEMENT))
    of = source.account(NAME)
    assert (ledger.account(NAME), ledger.events(NAME)) == (of, source.events(NAME))
    ledger.verify(of)
    ledger.reserve("one", 2, {of.id: "third"}, steps(10))
    with ledger.database.read() as connection:
        assert SEED not in connection.scalars(sa.select(schema.identity.c.public)).all()


def test_a_first_ledger_without_a_key_gets_one(url: str, reopen: Reopen, source: Ledger) -> None:
    """Its process was killed between tables and key."""
    make_first(url, SEED, source)
    with connectable(url).begin() as connection:
        connection.execute(sa.text("DELETE FROM identity"))
    made = reopen(url, create=True)
    assert reopen(url).signer.public == made.id


def test_who_could_read_the_first_tables_reads_on_but_not_the_seed(
    postgresql: postgres.Server, reopen: Reopen, source: Ledger
) -> None:
    url = postgresql.empty()
    make_first(url, SEED, source)
    rights = (
        "CREATE ROLE reader LOGIN; GRANT USAGE ON SCHEMA public TO reader;"
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader"
    )
    with postgresql.user("reader", rights) as readers:
        assert seeds(readers) == [SEED]
        made = reopen(url, create=True)
        assert reopen(readers, readonly=True).id == made.id
        with (
            psycopg.connect(readers) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege, match="signing_key"),
        ):
            connection.execute("SELECT seed FROM signing_key")


def test_a_damaged_key_is_not_migrated(
    url: str,
    source: Ledger,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_first(url, "seed", source)
    assert migrate(url, monkeypatch) == 4
    assert "signing key is damaged" in " ".join(capsys.readouterr().err.split())
    assert seeds(url) == ["seed"]
