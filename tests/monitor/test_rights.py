"""A database's user with the rights that deploy/README.md gives the monitor, and no other."""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest
from dpbitfit_monitor.client import MonitorClient
from dpbitfit_monitor.monitor import Monitor
from dpbitfit_monitor.page import urls
from dpbitfit_monitor.reader import LedgerViews
from starlette.testclient import TestClient

from dpbitfit.cli import main
from dpbitfit.errors import LedgerError
from dpbitfit.ledger import Account, Ledger
from tests.conftest import ROOT
from tests.support import postgres
from tests.support.ledgers import NAME, OTHER

from ..support.monitor_pages import monitor, out, page, stranger, token, token_file
from ..support.monitors import served

__all__ = ["monitor", "out", "page", "stranger", "token", "token_file"]

PLAN = (0.02, 10, 4.0)


@pytest.fixture
def url(postgresql: postgres.Server) -> str:
    return postgresql.empty()


@contextmanager
def granted(postgresql: postgres.Server) -> Iterator[str]:
    """The ledger's URL for the monitor's user."""
    documented = re.findall(r"```sql\n(.*?)```", (ROOT / "deploy/README.md").read_text(), re.S)
    with postgresql.user("monitor", "\n".join(documented)) as url:
        yield url


@pytest.fixture
def watcher(postgresql: postgres.Server, ledger: Ledger) -> Iterator[str]:
    with granted(postgresql) as url:
        yield url


@pytest.fixture
def reader(watcher: str) -> LedgerViews:
    return LedgerViews(watcher)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT seed FROM signing_key",
        "SELECT * FROM signing_key",
        "UPDATE signing_key SET seed = ''",
        "UPDATE identity SET public = ''",
        "UPDATE account SET budget = '80'",
        "DELETE FROM event",
        "CREATE TABLE notes (note text)",
    ],
)
def test_the_database_itself_refuses_the_seed_and_every_change(
    north: Account, watcher: str, statement: str
) -> None:
    with (
        psycopg.connect(watcher) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied"),
    ):
        connection.execute(statement.encode())


def test_the_seed_is_refused_whatever_a_database_grants_by_default(
    url: str, postgresql: postgres.Server, reopen: Callable[..., Ledger]
) -> None:
    everybody = "GRANT SELECT ON TABLES TO PUBLIC"
    postgresql.execute(f"ALTER DEFAULT PRIVILEGES IN SCHEMA public {everybody}")
    reopen(url, create=True)
    with granted(postgresql) as watcher, psycopg.connect(watcher) as connection:
        connection.execute("SELECT * FROM reply")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied"):
            connection.execute("SELECT seed FROM signing_key")


def test_it_opens_the_ledger_to_read_and_never_to_write(
    ledger: Ledger, watcher: str, reopen: Callable[..., Ledger]
) -> None:
    assert reopen(watcher, readonly=True).id == ledger.id
    with pytest.raises(LedgerError, match="this user may not use it"):
        reopen(watcher)


def test_the_monitors_reader_shows_what_the_owner_sees(
    north: Account, south: Account, reader: LedgerViews, url: str
) -> None:
    owner = LedgerViews(url)
    seen, shown = owner.overview(), reader.overview()
    assert (shown.ledger, shown.unreadable) == (seen.ledger, ())
    assert [account.name for account in shown.accounts] == [NAME, OTHER]
    detail, known = reader.account(NAME), owner.account(NAME)
    assert (detail.curve, detail.runs) == (known.curve, known.runs)
    assert reader.events(NAME) == owner.events(NAME)
    assert reader.forecast(NAME, *PLAN) == owner.forecast(NAME, *PLAN)
    for _ in shown.accounts:
        reader.verify_next()
    assert not reader.overview(fresh=True).unreadable


def test_the_monitor_serves(
    north: Account, south: Account, ledger: Ledger, reader: LedgerViews
) -> None:
    with served(Monitor(reader)) as at, MonitorClient(str(at.grpc)) as client:
        assert [account.name.site for account in client.accounts()] == ["north", "south"]
        assert client.account(NAME).account.rounds_left == 6
        events = [event.hash for event in client.events(NAME)]
        assert events == [event.hash for event in ledger.events(NAME)]
        assert client.forecast(NAME, *PLAN).fits


def test_the_page_is_served(north: Account, page: TestClient) -> None:
    account = urls.account_path(NAME)
    for path in ("/", account, f"{account}/report", f"{account}/export.json", "/export.csv"):
        answer = page.get(path)
        assert answer.status_code == 200
        assert "north" in answer.text


@pytest.mark.parametrize(
    "words",
    [
        ("ledger", "accounts", "--json"),
        ("ledger", "accounts", "--tight", "--json"),
        ("ledger", "show", str(NAME), "--json"),
        ("plan", "--phases", "biases", "--noise-multiplier", "8", "--json"),
        ("ledger", "verify", "--json"),
        ("ledger", "export"),
        ("ledger", "export", "--report"),
        ("budget", "--json"),
    ],
    ids=" ".join,
)
def test_the_commands_that_read_say_what_they_say_to_the_owner(
    words: tuple[str, ...],
    north: Account,
    south: Account,
    url: str,
    watcher: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def output_of(at: str) -> str:
        monkeypatch.setattr(sys, "argv", ["dpbitfit", *words, "--ledger", at])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        assert ended.value.code in (0, None), captured.err
        return re.sub(r'"at": "[^"]*"', "", captured.out)  # when it was asked

    output = output_of(watcher)
    assert "north" in output
    assert output == output_of(url)
