"""Real processes on one ledger: at once, and killed at any instant."""

import os
import random
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from dpbitfit.accounting.mechanism import Counts, Mechanism
from dpbitfit.errors import BudgetError, LedgerError
from dpbitfit.ledger import AccountName, Ledger
from dpbitfit.ledger.outbox import Reply

NAME = AccountName("north", "letters", "patient")
ONE: Counts = ((Mechanism(4.0, 0.01), 1),)
PROCESSES = 8
KILLS = 20
PATIENCE = 60

Log = Callable[[str], object]


@contextmanager
def running(
    fork: ForkServerContext, work: Callable[..., None], *arguments: object
) -> Iterator[ForkServerProcess]:
    """A process that does ``work``; killed at the block's end where it still runs."""
    process = fork.Process(target=work, args=arguments)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def together(
    fork: ForkServerContext, work: Callable[..., None], url: str, log: Path, *more: object
) -> list[list[str]]:
    """The log's lines of eight processes that do ``work`` at the same instant."""
    barrier = fork.Barrier(PROCESSES)
    everyone = [
        fork.Process(target=work, args=(url, log, barrier, number, *more))
        for number in range(PROCESSES)
    ]
    for process in everyone:
        process.start()
    for process in everyone:
        process.join(PATIENCE)
    codes = [process.exitcode for process in everyone]
    for process in everyone:
        process.kill()
    assert codes == [0] * PROCESSES
    return lines(log)


def lines(log: Path) -> list[list[str]]:
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def writer(log: Path) -> Log:
    """Says something that outlives this process, in one system call."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    return lambda text: os.write(descriptor, f"{text}\n".encode())


def prepared(url: str, allotted: int) -> None:
    ledger = Ledger(url, create=True)
    ledger.open_account(NAME, 1e-5, 8.0)
    ledger.allot(NAME, "run", "plan", ((ONE[0][0], allotted),))
    ledger.database.close()


def open_at_once(url: str, log: Path, barrier: Barrier, _number: int) -> None:
    barrier.wait(PATIENCE)
    ledger = Ledger(url, create=True)
    account = ledger.open_account(NAME, 1e-5, 8.0)
    writer(log)(f"{ledger.id} {account.id}")


def reserve_until_refused(url: str, log: Path, barrier: Barrier, number: int) -> None:
    say, ledger = writer(log), Ledger(url)
    account = ledger.account(NAME)
    barrier.wait(PATIENCE)
    for attempt in range(20):
        key = f"{number}-{attempt}"
        try:
            ledger.reserve("run", attempt, {account.id: key}, ONE)
        except BudgetError:
            say(f"refused {key}")
        else:
            say(f"reserved {key}")


def settle_every_round(
    url: str, log: Path, barrier: Barrier, number: int, keys: tuple[str, ...]
) -> None:
    """Half of the processes commit what the other half releases, all in the same order."""
    say, ledger = writer(log), Ledger(url)
    barrier.wait(PATIENCE)
    for key in keys:
        try:
            if number % 2:
                ledger.commit({key: f"by-{number}"})
            else:
                ledger.release(key, f"by-{number}")
                say(f"released {key}")
        except LedgerError:
            say(f"refused {key}")


def verify_while_it_changes(url: str, log: Path, barrier: Barrier, number: int) -> None:
    say, ledger = writer(log), Ledger(url)
    account = ledger.account(NAME)
    barrier.wait(PATIENCE)
    for attempt in range(15):
        if number % 2:
            ledger.verify(account)
            say("verified")
        else:
            key = f"{number}-{attempt}"
            ledger.reserve("run", attempt, {account.id: key}, ONE)
            ledger.commit({key: "replied"})


def work_until_killed(url: str, log: Path, life: int) -> None:
    say, ledger = writer(log), Ledger(url)
    account = ledger.account(NAME)
    number = 0
    while True:
        number += 1
        key = f"{life}-{number}"
        say(f"try {key}")
        ledger.reserve("run", number, {account.id: key}, ONE)
        say(f"reserved {key}")
        ledger.commit({key: "replied"}, Reply(key, "asked", key.encode()))
        say(f"committed {key}")


def hold_the_claim(url: str, log: Path) -> None:
    with Ledger(url).claim():
        writer(log)("claimed")
        time.sleep(PATIENCE)


def wait_for(log: Path, count: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while len(lines(log)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_processes_that_make_a_ledger_at_once_make_one(
    fork: ForkServerContext, url: str, tmp_path: Path
) -> None:
    message = together(fork, open_at_once, url, tmp_path / "log")
    assert len(message) == PROCESSES
    assert len({tuple(words) for words in message}) == 1
    ledger = Ledger(url)
    (account,) = ledger.accounts()
    assert [event.kind for event in ledger.events(NAME)] == ["open"]
    ledger.verify(account)
    ledger.database.close()


def test_a_ledger_that_another_process_writes_to_meanwhile_is_opened_after_it(
    tmp_path: Path,
) -> None:
    """Before a new file has its write-ahead log, SQLite itself waits for no writer."""
    path = tmp_path / "ledger.sqlite"
    writes = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    writes.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerError, match="another process holds it"):
        Ledger(str(path), create=True, wait_seconds=0.3)
    ends = threading.Timer(0.5, writes.close)
    ends.start()
    Ledger(str(path), create=True).database.close()
    ends.join()


def test_processes_at_once_never_pass_the_allotment(
    fork: ForkServerContext, url: str, tmp_path: Path
) -> None:
    prepared(url, allotted=101)
    message = together(fork, reserve_until_refused, url, tmp_path / "log")
    assert Counter(what for what, _ in message) == {
        "reserved": 101,
        "refused": PROCESSES * 20 - 101,
    }
    ledger = Ledger(url)
    account = ledger.account(NAME)
    (held,) = ledger.allotments([account.id])[account.id].values()
    assert (held.allotted, held.reserved, held.committed) == (101, 101, 0)
    acknowledged = {key for what, key in message if what == "reserved"}
    assert {each.key for each in ledger.reservations()} == acknowledged
    ledger.verify(account)
    ledger.database.close()


def test_a_round_is_settled_once_by_the_first_process(
    fork: ForkServerContext, url: str, tmp_path: Path
) -> None:
    prepared(url, allotted=100)
    ledger = Ledger(url)
    account = ledger.account(NAME)
    keys = tuple(f"k{number}" for number in range(30))
    for number, key in enumerate(keys):
        ledger.reserve("run", number, {account.id: key}, ONE)
    message = together(fork, settle_every_round, url, tmp_path / "log", keys)
    released = [key for what, key in message if what == "released"]
    assert len(released) == len(set(released))
    (held,) = ledger.allotments([account.id])[account.id].values()
    assert (held.reserved, held.committed) == (0, len(keys) - len(released))
    assert {each.key for each in ledger.reservations(state="released")} == set(released)
    ledger.verify(account)
    ledger.database.close()


def test_verifying_sees_one_moment_while_others_write(
    fork: ForkServerContext, url: str, tmp_path: Path
) -> None:
    prepared(url, allotted=100)
    message = together(fork, verify_while_it_changes, url, tmp_path / "log")
    assert len(message) == PROCESSES // 2 * 15


def test_nothing_acknowledged_is_lost_to_kill_9(
    fork: ForkServerContext, url: str, tmp_path: Path
) -> None:
    prepared(url, allotted=100_000)
    log, chance = tmp_path / "log", random.Random(3)
    killed: set[str] = set()
    rounds = 0
    for life in range(KILLS):
        before = len(lines(log))
        with running(fork, work_until_killed, url, log, life) as process:
            lived = chance.randrange(1, 10)
            wait_for(log, before + lived)
            time.sleep(chance.uniform(0, 0.01))
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join(PATIENCE)
            assert process.exitcode == -signal.SIGKILL
        rounds += lived // 3  # three lines each
        message = lines(log)
        ledger = Ledger(url)
        account = ledger.account(NAME)
        states = {key: each.state for key, each in ledger.verify(account).rounds.items()}
        tried, reserved, committed = (
            {key for what, key in message if what == kind}
            for kind in ("try", "reserved", "committed")
        )
        assert reserved <= states.keys() <= tried
        assert all(states[key] == "committed" for key in committed)
        replied = {each.key for each in ledger.reservations(state="committed")} - killed
        assert all(ledger.reply(key) is not None for key in replied)
        newest = ledger.last_reply(account, "run")
        assert newest is None or newest.payload == newest.key.encode()
        killed.update(each.key for each in ledger.settle("killed"))
        ledger.verify(account)
        ledger.database.close()
    assert len({key for what, key in lines(log) if what == "committed"}) >= rounds > 0


def test_one_process_runs_rounds_and_lets_go_when_killed(
    fork: ForkServerContext, url: str, tmp_path: Path
) -> None:
    prepared(url, allotted=1)
    ledger = Ledger(url)
    with running(fork, hold_the_claim, url, tmp_path / "log") as process:
        wait_for(tmp_path / "log", 1)
        with pytest.raises(LedgerError, match="another process runs rounds"), ledger.claim():
            pass
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join(PATIENCE)
        with ledger.claim(wait_seconds=10):
            pass
    with ledger.claim():
        pass
    ledger.database.close()
