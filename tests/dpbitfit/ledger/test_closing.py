"""A ledger that cannot be opened leaves no connection behind, and one that was used is closed."""

from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from dpbitfit.errors import LedgerError
from dpbitfit.ledger import Ledger, schema
from dpbitfit.ledger.backup import back_up
from dpbitfit.ledger.cli import app
from dpbitfit.ledger.reader import Reader


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.sqlite"
    with Ledger(str(path), create=True):
        assert open_files(tmp_path)
    return path


def open_files(folder: Path) -> list[str]:
    """The files of a folder that this process has open."""
    return [
        file.path for file in psutil.Process().open_files() if file.path.startswith(str(folder))
    ]


def lose(path: Path, table: sa.Table) -> None:
    with Ledger(str(path)) as ledger, ledger.database.write() as connection:
        connection.execute(sa.delete(table))


def break_form(path: Path) -> None:
    with Ledger(str(path)) as ledger, ledger.database.write() as connection:
        connection.execute(sa.text(f"UPDATE {schema.VERSION_TABLE} SET version_num = '9999'"))


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (lambda path: path.write_bytes(b""), Reader),
        (lambda path: path.write_bytes(b"no database" * 1000), Reader),
        (break_form, Reader),
        (lambda path: lose(path, schema.identity), Reader),
        (lambda path: lose(path, schema.signing_key), Ledger),
    ],
    ids=["no tables", "no database", "newer", "no id", "no signing key"],
)
def test_a_ledger_that_cannot_be_opened_is_closed(
    path: Path, damage: Callable[[Path], object], kind: type[Reader]
) -> None:
    damage(path)
    with pytest.raises(LedgerError) as failure:  # whose traceback would hold on to what is open
        kind(str(path))
    assert open_files(path.parent) == []
    assert failure.value.__traceback__ is not None


def test_a_backup_that_does_not_add_up_is_closed(path: Path) -> None:
    with Reader(str(path)) as ledger:
        lose(path, schema.identity)
        with pytest.raises(LedgerError, match="the copy does not add up"):
            back_up(ledger, path.with_name("copy.sqlite"))
    assert open_files(path.parent) == []


@pytest.mark.parametrize("command", ["accounts", "verify", "export", "show"])
def test_a_command_closes_its_ledger_however_it_ends(path: Path, command: str) -> None:
    arguments = ["no/such/account"] if command == "show" else []
    done = CliRunner().invoke(app, [command, *arguments, "--ledger", str(path)])
    assert (done.exception is None) == (command != "show")
    assert open_files(path.parent) == []
