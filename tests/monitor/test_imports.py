"""The server's packages know the ledger by its reading API, never by its tables."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import ROOT

FORBIDDEN = (
    "sqlalchemy",
    "dpbitfit.ledger.schema",
    "dpbitfit.ledger.queries",
    "dpbitfit.ledger.database",
    "dpbitfit.ledger.migrations",
)


def imported(file: Path) -> Iterator[str]:
    """Every module that a file names in an import, and every name that it takes from one."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def uses_tables(file: Path) -> bool:
    return any(
        name == module or name.startswith(f"{module}.")
        for name in imported(file)
        for module in FORBIDDEN
    )


def test_no_module_of_the_server_knows_the_ledgers_tables() -> None:
    files = sorted((ROOT / "server").rglob("*.py"))
    assert len(files) > 30
    assert [str(file) for file in files if uses_tables(file)] == []


def test_an_import_of_the_tables_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    for line in (
        "import sqlalchemy as sa",
        "from sqlalchemy import select",
        "import dpbitfit.ledger.schema",
        "from dpbitfit.ledger import Ledger, queries",
        "def late():\n    from dpbitfit.ledger.schema import event",
    ):
        file.write_text(line)
        assert uses_tables(file)
    file.write_text(
        "from dpbitfit.ledger import status\nfrom dpbitfit.ledger.reader import Reader\n"
    )
    assert not uses_tables(file)
