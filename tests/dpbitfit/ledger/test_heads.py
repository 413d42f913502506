"""The copy of a ledger's heads: what it notices, and that a crash is no false alarm."""

import os
import random
import shutil
import signal
import time
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from dpbitfit.accounting.mechanism import Mechanism
from dpbitfit.errors import LedgerError
from dpbitfit.ledger import AccountName, Ledger
from dpbitfit.ledger.heads import Heads, default_folder

from ...support.ledgers import NAME, OTHER, account, new_ledger, run_rounds, steps

KILLS = int(os.environ.get("DPBITFIT_KILLS", "4"))
COORDINATOR = "c" * 64
QUIET = Mechanism(1000.0, 1e-4)  # of which there are many in a budget


def used(folder: Path, rounds: int = 1) -> Ledger:
    made = new_ledger(folder)
    of = account(made)
    made.allot(NAME, "one", "plan", steps(10**6, QUIET), COORDINATOR)
    run_rounds(made, of, "one", rounds, steps(10, QUIET))
    return made


def restored(ledger: Ledger, copy: Path) -> Ledger:
    path = Path(str(ledger.database))
    ledger.database.close()
    shutil.copy(copy, path)
    return Ledger(str(path))


def copied(ledger: Ledger, to: Path) -> Path:
    ledger.database.close()
    return Path(shutil.copy(str(ledger.database), to))


def test_a_ledger_that_goes_on_is_the_one_that_it_was(tmp_path: Path) -> None:
    ledger, heads = used(tmp_path), Heads(tmp_path / "state")
    heads.check(ledger)  # nothing is known yet
    heads.write(ledger)
    heads.check(ledger)
    ledger.set_budget(NAME, 7.0, "less")
    account(ledger, OTHER)
    heads.check(ledger)  # the copy may be behind
    assert {file.stat().st_mode & 0o077 for file in (heads.folder, heads.path)} == {0}


def test_a_ledger_that_was_restored_or_replaced_is_not(tmp_path: Path) -> None:
    ledger, heads = used(tmp_path), Heads(tmp_path / "state")
    copy = copied(ledger, tmp_path / "copy")
    of = ledger.account(NAME)
    ledger.reserve("one", 7, {of.id: "seventh"}, steps(10, QUIET))
    heads.write(ledger)
    ledger = restored(ledger, copy)
    for _ in range(2):
        with pytest.raises(LedgerError, match=r"has lost events.*settle --rebase"):
            heads.check(ledger)
        # It grows past the number of events that was known, and is another chain.
        ledger.set_budget(NAME, 7.0, "less")
        ledger.set_budget(NAME, 6.0, "less")
    another = new_ledger(tmp_path, "another.sqlite")
    with pytest.raises(LedgerError, match="that one was lost"):
        heads.check(another)
    _, kept = heads.lost(another)
    assert kept[NAME].runs == {COORDINATOR: {"one": steps(20, QUIET)}}


def test_what_cannot_be_read_or_written_is_reported(tmp_path: Path) -> None:
    ledger, heads = used(tmp_path), Heads(tmp_path / "state")
    heads.write(ledger)
    whole = heads.path.read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"[]", b'{"ledger": 4}', b"\xff"):
        heads.path.write_bytes(content)
        with pytest.raises(LedgerError, match="cannot be read"):
            heads.check(ledger)
    heads.path.unlink()
    heads.path.mkdir()
    with pytest.raises(LedgerError, match="cannot be written"):
        heads.write(ledger)


def test_a_postgresql_ledger_has_no_folder_beside_it() -> None:
    assert default_folder("postgresql://user@host/name") is None
    assert default_folder("/a/ledger.sqlite") == Path("/a/ledger.sqlite.state")


def work_until_killed(url: str, state: Path, log: Path, life: int) -> None:
    """What a guard does for each round; it says when the round may touch records."""
    ledger, heads = Ledger(url), Heads(state)
    of = ledger.account(AccountName(*NAME))
    with log.open("a", buffering=1) as message:
        for number in range(10**6):
            heads.check(ledger)
            key = f"{life}-{number}"
            ledger.reserve("one", number, {of.id: key}, steps(1, QUIET))
            heads.write(ledger)
            message.write(f"{ledger.account(NAME).sequence}\n")
            ledger.commit({key: "reply"})


def test_kill_9_at_any_instant_is_no_alarm_and_hides_none(
    fork: ForkServerContext, tmp_path: Path
) -> None:
    ledger, heads = used(tmp_path, rounds=0), Heads(tmp_path / "state")
    heads.write(ledger)
    path, log, chance = str(ledger.database), tmp_path / "log", random.Random()
    log.touch()
    for life in range(KILLS):
        copy = copied(ledger, tmp_path / "copy")
        before = len(log.read_text().splitlines())
        process = fork.Process(target=work_until_killed, args=(path, heads.folder, log, life))
        process.start()
        last = time.monotonic() + 120
        while len(log.read_text().splitlines()) < before + 3:
            assert time.monotonic() < last
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.05))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        ledger = Ledger(path)
        heads.check(ledger)
        touched = int(log.read_text().splitlines()[-1])
        assert heads.read()[1][NAME].sequence >= touched  # before any record is
        ledger.settle("killed")
        now = copied(ledger, tmp_path / "now")
        ledger = restored(ledger, copy)
        with pytest.raises(LedgerError, match="has lost events"):
            heads.check(ledger)
        ledger = restored(ledger, now)
        heads.check(ledger)
