"""Ledgers that cannot be used or are corrupt: refused in clear words, and nothing is spent."""

import hashlib
import os
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from dpbitfit.accounting.mechanism import Counts, Mechanism
from dpbitfit.errors import InputError, LedgerError
from dpbitfit.ledger import AccountName, Ledger
from dpbitfit.ledger.outbox import Reply
from dpbitfit.ledger.schema import VERSION_TABLE, metadata
from dpbitfit.ledger.verify import check_whole

NAME = AccountName("north", "letters", "patient")
M = Mechanism(4.0, 0.01)
TEN: Counts = ((M, 10),)
NOBODY = 65534

Reopen = Callable[..., Ledger]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger with a few events, closed."""
    return filled(tmp_path / "ledger.sqlite")


def filled(path: Path) -> Path:
    ledger = Ledger(str(path), create=True)
    account = ledger.open_account(NAME, 1e-5, 8.0)
    ledger.allot(NAME, "run", "plan", ((M, 100),), "coordinator")
    for number in range(3):
        ledger.reserve("run", number, {account.id: f"k{number}"}, TEN)
    ledger.commit({"k0": "replied"}, Reply("k0", "asked", b"bytes"))
    ledger.database.close()
    return path


def edit(path: Path, *statements: str) -> None:
    """Change the file behind the ledger's back."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.create_function(
            "sha256", 1, lambda text: hashlib.sha256(text.encode()).hexdigest()
        )
        for statement in statements:
            assert connection.execute(statement).rowcount != 0


def content(path: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return [
            row
            for table in (*metadata.tables, VERSION_TABLE)
            for row in connection.execute(f"SELECT * FROM {table}")
        ]


EVENT_5 = "event 5: its hash is not that of its content"
EDITS = {
    "a balance": (["UPDATE allotment SET committed = 0"], "run run: its events say"),
    "an allotment": (["UPDATE allotment SET allotted = 1000"], "run run: its events say"),
    "a parameter": (["UPDATE allotment SET noise_multiplier = '9'"], "run run: its events say"),
    "an unreadable parameter": (["UPDATE allotment SET noise_multiplier = 'x'"], "run run"),
    "an impossible parameter": (["UPDATE allotment SET noise_multiplier = '0'"], "run run"),
    "a plan": (["UPDATE allotment SET plan = 'other'"], "run run"),
    "a coordinator": (["UPDATE allotment SET coordinator = 'other'"], "run run"),
    "no allotment": (["DELETE FROM allotment"], "run run: its events say"),
    "a budget": (["UPDATE account SET budget = '80'"], "a budget of 80"),
    "an unreadable budget": (["UPDATE account SET budget = 'much'"], "north/letters/patient"),
    "a delta": (["UPDATE account SET delta = '0.1'"], "its 6 events say other than its row"),
    "a filter": (["UPDATE account SET filter_order = 2"], "its 6 events say other than its row"),
    "an event": (
        ["UPDATE event SET body = replace(body, '\"k2\"', '\"k9\"') WHERE sequence = 5"],
        EVENT_5,
    ),
    "an event and its hash": (
        [
            "UPDATE event SET body = replace(body, '\"k1\"', '\"k9\"') WHERE sequence = 4",
            "UPDATE event SET hash = sha256(body) WHERE sequence = 4",
        ],
        "event 5: it does not follow the event before it",
    ),
    "an event's kind": (
        ["UPDATE event SET kind = 'release' WHERE sequence = 6"],
        "event 6: its columns are not what its content says",
    ),
    "an event that is no text": (
        ["UPDATE event SET body = 'nothing' WHERE sequence = 2"],
        "event 2: its content cannot be read",
    ),
    "a lost event": (
        ["DELETE FROM event WHERE sequence = 3"],
        "event 4: event 3 should stand here",
    ),
    "a lost last event": (
        ["DELETE FROM event WHERE sequence = 6"],
        "its 5 events say other than its row",
    ),
    "no events": (["DELETE FROM event"], "its 0 events say other than its row"),
    "a lost round": (["DELETE FROM reservation WHERE key = 'k1'"], "round k1"),
    "a released round": (
        ["UPDATE reservation SET state = 'released' WHERE key = 'k1'"],
        "round k1",
    ),
    "a round's counts": (["UPDATE reservation SET counts = '[]' WHERE key = 'k1'"], "round k1"),
    "a round's outcome": (["UPDATE reservation SET outcome = 'x' WHERE key = 'k1'"], "round k1"),
    "a round's number": (["UPDATE reservation SET round = 9 WHERE key = 'k1'"], "round k1"),
    "a round's unreadable counts": (
        ["UPDATE reservation SET counts = 'ten' WHERE key = 'k1'"],
        "round k1",
    ),
}


@pytest.mark.parametrize(("statements", "message"), EDITS.values(), ids=EDITS)
def test_an_edited_ledger_is_refused_at_the_first_bad_row(
    path: Path, reopen: Reopen, statements: list[str], message: str
) -> None:
    edit(path, *statements)
    before = content(path)
    with pytest.raises(LedgerError, match=message) as refused:
        reopen(str(path)).open_account(NAME, 1e-5, 8.0)
    assert "north/letters/patient" in str(refused.value)
    assert content(path) == before


def test_an_account_that_is_gone_is_named(path: Path, reopen: Reopen) -> None:
    account = reopen(str(path)).account(NAME)
    edit(path, "DELETE FROM account")
    with pytest.raises(LedgerError, match="north/letters/patient: its row is gone"):
        reopen(str(path)).verify(account)


@pytest.mark.parametrize("part", [0.02, 0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_truncated_ledger_is_refused(path: Path, reopen: Reopen, part: float) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(LedgerError, match="damaged"):
        reopen(str(path)).open_account(NAME, 1e-5, 8.0)


def test_a_lost_last_page_is_found_although_no_row_is_missed(path: Path, reopen: Reopen) -> None:
    ledger = reopen(str(path))
    with ledger.database.read() as connection:
        check_whole(connection)
    ledger.database.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:-4096])
    with (
        pytest.raises(LedgerError, match="damaged"),
        reopen(str(path)).database.read() as connection,
    ):
        check_whole(connection)


@pytest.mark.parametrize("create", [False, True])
def test_a_file_that_is_no_ledger_is_refused_and_kept(
    tmp_path: Path, reopen: Reopen, create: bool
) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("Buy milk.\n" * 100)
    with pytest.raises(LedgerError, match=r"notes\.txt: it is damaged or no ledger"):
        reopen(str(path), create=create)
    assert path.read_text() == "Buy milk.\n" * 100


def test_no_ledger_is_made_by_accident(tmp_path: Path, reopen: Reopen) -> None:
    path = tmp_path / "folder" / "ledger.sqlite"
    for readonly in (False, True):
        with pytest.raises(LedgerError, match=r"ledger\.sqlite: there is no ledger here"):
            reopen(str(path), readonly=readonly)
    assert not path.parent.exists()
    reopen(str(path), create=True)
    assert path.stat().st_mode & 0o777 == 0o600


def test_another_programs_database_is_no_ledger(tmp_path: Path, reopen: Reopen) -> None:
    path = tmp_path / "other.sqlite"
    edit(path, "CREATE TABLE milk (bought)")
    with pytest.raises(LedgerError, match="there is no ledger here"):
        reopen(str(path))


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("mysql://host/ledger", InputError, "'mysql'"),
        ("post gres://", InputError, "cannot be read"),
        ("postgresql://nobody@127.0.0.1:1/ledger", LedgerError, "does not answer"),
    ],
)
def test_a_url_that_leads_nowhere_is_refused(
    reopen: Reopen, url: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        reopen(url)


def test_a_servers_password_is_never_shown(reopen: Reopen) -> None:
    with pytest.raises(LedgerError) as refused:
        reopen("postgresql://nobody:s3cret@127.0.0.1:1/ledger")
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("create", [False, True])
@pytest.mark.parametrize(
    ("revision", "message"), [("9999", "newer version"), ("0000", "older form|unknown form")]
)
def test_other_tables_than_this_versions_are_refused(
    ledger: Ledger, reopen: Reopen, revision: str, message: str, create: bool
) -> None:
    with ledger.database.write() as connection:
        connection.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = '{revision}'"))
    with pytest.raises(LedgerError, match=message):
        reopen(ledger.database.url.render_as_string(), create=create)
    assert ledger.database.revision == revision
    assert ledger.accounts() == []


def test_the_migrated_tables_are_those_of_the_code(ledger: Ledger) -> None:
    options = {"version_table": VERSION_TABLE, "compare_type": True}
    with ledger.database.read() as connection:
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, metadata) == []
        kept = sa.inspect(connection).get_check_constraints("allotment")
    assert {each["name"] for each in kept} == {"no_negative_count", "never_over_the_allotment"}
    ledger.database.migrate()


def test_a_full_disk_is_reported_and_spends_nothing(path: Path, reopen: Reopen) -> None:
    ledger = reopen(str(path))
    account = ledger.account(NAME)

    def limit(connection: sqlite3.Connection, _record: object) -> None:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + 2}")

    engine = ledger.database._engine
    engine.dispose()
    sa.event.listen(engine, "connect", limit)
    ledger.allot(NAME, "long", "plan", ((M, 5000),))
    done = 0

    def reserve_on() -> None:
        nonlocal done
        while True:
            ledger.reserve("long", done, {account.id: f"long-{done}"}, ((M, 1),))
            done += 1

    with pytest.raises(LedgerError, match=r"disk is full.*nothing was recorded"):
        reserve_on()
    assert 0 < done < 5000
    for _ in ("full", "roomy"):
        held = ledger.allotments([account.id])[account.id]["long", M]
        assert (held.reserved, len(ledger.reservations("long"))) == (done, done)
        ledger.verify(account)
        ledger = reopen(str(path))  # where there is room
    ledger.reserve("long", done, {account.id: f"long-{done}"}, ((M, 1),))
    ledger.verify(account)


def try_to_reserve(path: Path, words: Path) -> None:
    """Reserve as somebody who may not write the ledger."""
    with words.open("w") as log:
        if os.getuid() == 0:
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        try:
            ledger = Ledger(str(path))
            account = ledger.account(NAME)
            ledger.reserve("run", 9, {account.id: "k9"}, TEN)
        except LedgerError as error:
            log.write(str(error))
        else:
            log.write("reserved")


def read_as_nobody(path: Path, words: Path) -> None:
    with words.open("w") as log:
        if os.getuid() == 0:
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        ledger = Ledger(str(path), readonly=True)
        log.write(str(ledger.account(NAME).sequence))


def test_a_closed_ledger_can_be_read_where_nothing_may_be_written(
    fork: ForkServerContext, tmp_path: Path
) -> None:
    with tempfile.TemporaryDirectory() as shared:
        folder = Path(shared)
        path = filled(folder / "ledger.sqlite")
        path.chmod(0o444)
        folder.chmod(0o555)
        assert sorted(folder.iterdir()) == [path]
        process = fork.Process(target=read_as_nobody, args=(path, tmp_path / "said"))
        process.start()
        process.join()
        folder.chmod(0o755)
        assert (tmp_path / "said").read_text() == "6"


def test_a_read_only_file_is_reported(fork: ForkServerContext, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as shared:
        folder = Path(shared)
        path = filled(folder / "ledger.sqlite")
        path.chmod(0o444)
        folder.chmod(0o555)
        before = content(path)
        process = fork.Process(target=try_to_reserve, args=(path, tmp_path / "said"))
        process.start()
        process.join()
        folder.chmod(0o755)
        words = (tmp_path / "said").read_text()
        assert "ledger.sqlite: it" in words
        assert "nothing was recorded" in words
        assert content(path) == before
