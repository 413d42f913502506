"""Fresh databases: SQLite's a path, PostgreSQL's on a server of the test session."""

import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from dpbitfit.ledger import Ledger
from tests.support import postgres


@pytest.fixture(scope="session")
def postgresql() -> Iterator[postgres.Server]:
    """A running PostgreSQL; the test skips where no server is installed."""
    programs = postgres.binaries()
    if programs is None:
        pytest.skip("no PostgreSQL server: none on the path, none of Debian, no package")
    with postgres.serve(programs) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database that has no ledger yet."""
    if request.param == "sqlite":
        return str(tmp_path / "ledger.sqlite")
    server: postgres.Server = request.getfixturevalue("postgresql")
    return server.empty()


@pytest.fixture
def reopen() -> Iterator[Callable[[str], Ledger]]:
    """Opens a ledger, as another process would; closes every one at the end."""
    opened: list[Ledger] = []

    def open_one(url: str, create: bool = False, readonly: bool = False) -> Ledger:
        opened.append(Ledger(url, create, readonly))
        return opened[-1]

    yield open_one
    for each in opened:
        each.database.close()


@pytest.fixture
def ledger(url: str, reopen: Callable[..., Ledger]) -> Ledger:
    """A new ledger."""
    return reopen(url, create=True)


@pytest.fixture(scope="session")
def fork() -> ForkServerContext:
    """Starts processes that have imported the ledger, and what tests of it import, already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dpbitfit.ledger", "psycopg", "pytest"])
    return context
