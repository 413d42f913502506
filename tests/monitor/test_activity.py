"""Read step by step, from the end, or as a whole: it is the same."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from dpbitfit_monitor import activity
from dpbitfit_monitor.activity import ENDS, Activity
from dpbitfit_monitor.reader import LedgerViews
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dpbitfit.errors import LedgerError
from dpbitfit.ledger import Account, Ledger
from dpbitfit.ledger.events import Event
from tests.support.ledgers import DELTA, NAME, OTHER, steps

NAMES = (NAME, OTHER)
NOW = datetime.now(UTC) + timedelta(hours=30)

work = st.one_of(
    st.tuples(st.just("reserve"), st.sampled_from(NAMES)),
    st.tuples(st.just("end"), st.sampled_from([*ENDS, "for a new reason"])),
    st.tuples(st.just("release"), st.none()),
    st.tuples(st.just("budget"), st.sampled_from(NAMES)),
    st.tuples(st.just("allot"), st.sampled_from(NAMES)),
    st.tuples(st.just("void"), st.sampled_from(NAMES)),
    st.tuples(st.just("rebase"), st.sampled_from(NAMES)),
    st.tuples(st.just("look"), st.none()),
)


@contextmanager
def opened() -> Iterator[tuple[str, Ledger, dict[tuple[str, ...], Account]]]:
    with tempfile.TemporaryDirectory() as folder:
        url = str(Path(folder) / "ledger.sqlite")
        ledger = Ledger(url, create=True)
        accounts = {tuple(name): ledger.open_account(name, DELTA, 8.0) for name in NAMES}
        for name in NAMES:
            ledger.allot(name, "run", "plan", steps(1000))
        yield url, ledger, accounts
        ledger.database.close()


@pytest.mark.parametrize("tail", [1, 2, 8])
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=st.lists(work, max_size=25))
def test_an_account_read_in_steps_is_the_account_read_at_once(
    tail: int, history: list[tuple[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activity, "_TAIL", tail)
    with opened() as (url, ledger, accounts):
        followed = LedgerViews(url, now=lambda: NOW)
        for number, (kind, of) in enumerate(history):
            reserved = ledger.reservations()
            if kind == "reserve":
                ledger.reserve("run", number, {accounts[tuple(of)].id: f"k{number}"}, steps(5))  # type: ignore[arg-type]
            elif kind == "end" and reserved:
                ledger.commit({reserved[0].key: str(of)})
            elif kind == "release" and reserved:
                ledger.release(reserved[-1].key, "proof")
            elif kind == "budget":
                ledger.set_budget(of, 8.0 + number, "more")  # type: ignore[arg-type]
            elif kind == "allot":
                ledger.allot(of, f"run-{number}", "plan", steps(7))  # type: ignore[arg-type]
            elif kind == "void":
                ledger.void_key(of, "run", number, f"v{number}")  # type: ignore[arg-type]
            elif kind == "rebase":
                ledger.rebase(of, {"old": steps(3)}, "c" * 64, "lost")  # type: ignore[arg-type]
            elif kind == "look":
                followed.overview(fresh=True)
        at_once = LedgerViews(url, now=lambda: NOW)
        assert followed.overview(fresh=True) == at_once.overview(fresh=True)
        for view in at_once.overview().accounts:
            assert at_once.account(view.name).view == view


def test_only_new_events_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    add = Activity.add

    def count(self: Activity, event: Event) -> None:
        read.append(event.sequence)
        add(self, event)

    monkeypatch.setattr(Activity, "add", count)
    with opened() as (url, ledger, accounts):
        one = accounts[tuple(NAME)]
        for number in range(50):
            ledger.reserve("run", number, {one.id: f"k{number}"}, steps(5))
            ledger.commit({f"k{number}": "reply"})
        reader = LedgerViews(url)
        reader.overview()
        assert min(n for n in read if n > 2) > 90
        read.clear()
        reader.overview(fresh=True)
        assert not read
        ledger.reserve("run", 50, {one.id: "k50"}, steps(5))
        reader.overview(fresh=True)
        assert read == [103]


def test_an_answer_long_ago_is_found_behind_many_refusals() -> None:
    with opened() as (url, ledger, accounts):
        one = accounts[tuple(NAME)]
        for number in range(20):
            ledger.reserve("run", number, {one.id: f"k{number}"}, steps(5))
            ledger.commit({f"k{number}": "refused" if number else "reply"})
        assert LedgerViews(url).overview().accounts[0].last_seen is not None


@pytest.mark.parametrize("gone_back", [1, 3, 9])
def test_a_restored_backup_is_read_as_what_it_is(gone_back: int, tmp_path: Path) -> None:
    path, backup = tmp_path / "ledger.sqlite", tmp_path / "backup.sqlite"
    ledger = Ledger(str(path), create=True)
    one = ledger.open_account(NAME, DELTA, 8.0)
    ledger.allot(NAME, "run", "plan", steps(1000))

    def rounds(new_ledger: Ledger, first: int, last: int) -> None:
        for number in range(first, last):
            new_ledger.reserve("run", number, {one.id: f"k{number}"}, steps(5))
            new_ledger.commit({f"k{number}": "reply"})

    rounds(ledger, 0, 10)
    with ledger.database.read() as connection:
        connection.exec_driver_sql("COMMIT")
        connection.exec_driver_sql(f"VACUUM INTO '{backup}'")
        connection.exec_driver_sql("BEGIN")
    rounds(ledger, 10, 10 + gone_back)
    reader = LedgerViews(str(path))
    reader.overview()
    ledger.database.close()
    for leftover in tmp_path.glob("ledger.sqlite*"):
        leftover.unlink()
    backup.rename(path)
    restored = Ledger(str(path))
    rounds(restored, 100, 100 + gone_back)  # as many events, but others
    assert reader.overview(fresh=True).accounts == LedgerViews(str(path)).overview().accounts
    assert reader.overview().accounts[0].ends == {"reply": 10 + gone_back}


def test_an_event_that_does_not_follow_is_not_added(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path / "ledger.sqlite"), create=True)
    ledger.open_account(NAME, DELTA, 8.0)
    ledger.set_budget(NAME, 9.0, "more")
    first, second = ledger.events(NAME)
    assert '"9"' in second.body
    with pytest.raises(LedgerError, match="event 2"):
        Activity().add(second)
    begun = Activity()
    begun.add(first)
    with pytest.raises(LedgerError, match="event 2"):
        begun.add(Event(2, second.kind, second.body.replace('"9"', '"99"'), second.hash))
    begun.add(second)
    assert (begun.sequence, begun.head) == (2, second.hash)
