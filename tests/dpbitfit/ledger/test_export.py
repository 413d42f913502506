"""Events out and back in: the same chain, or a refusal that names the line."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dpbitfit.accounting.mechanism import Mechanism
from dpbitfit.errors import BudgetError, LedgerError, ProtocolError
from dpbitfit.ledger import Ledger, export, schema
from dpbitfit.ledger.importing import import_events

from ...support.ledgers import NAME, OTHER, STEP, account, new_ledger, run_rounds, steps

ACTIONS = ("allot", "reserve", "commit", "release", "void-key", "void-rest", "budget", "rebase")


@contextmanager
def folder() -> Iterator[Path]:
    """A new folder: hypothesis runs one test many times."""
    with TemporaryDirectory() as made:
        yield Path(made)


def lines_of(ledger: Ledger) -> list[bytes]:
    return [line.encode() for one in ledger.accounts() for line in export.lines(ledger, one.name)]


def tables(ledger: Ledger) -> dict[str, Any]:
    """Every row that must come back, without the numbers that a database gives."""
    result = {}
    with ledger.database.read() as connection:
        names = {row.id: row.site for row in connection.execute(sa.select(schema.account))}
        for table in (schema.account, schema.event, schema.allotment, schema.reservation):
            rows = [row._asdict() for row in connection.execute(sa.select(table))]
            for row in rows:
                row["account_id"] = names[row.get("account_id", row.get("id"))]
                row.pop("id", None)
            result[table.name] = sorted(rows, key=lambda row: json.dumps(row, sort_keys=True))
    return result


def act(ledger: Ledger, actions: list[tuple[str, int]]) -> None:
    """Do what a ledger allows of these; what it refuses is refused."""
    accounts = [account(ledger, NAME), account(ledger, OTHER)]
    for one in accounts:
        ledger.allot(one.name, "run-0", "plan", steps(20))
    for number, (action, which) in enumerate(actions):
        one = accounts[which % 2]
        run = f"run-{which // 2 % 2}"
        key = next((r.key for r in ledger.reservations() if r.account_id == one.id), "")
        todo: dict[str, Callable[[], object]] = {
            "allot": lambda one=one, run=run: ledger.allot(one.name, run, "plan", steps(20)),
            "reserve": lambda one=one, run=run, n=number: ledger.reserve(
                run, n, {one.id: f"key-{n}"}, steps(5)
            ),
            "commit": lambda key=key: key and ledger.commit({key: "reply"}),
            "release": lambda key=key: key and ledger.release(key, "signed"),
            "void-key": lambda one=one, run=run, n=number: ledger.void_key(
                one.name, run, n, f"key-{n}"
            ),
            "void-rest": lambda one=one, run=run: ledger.void_rest(one.name, run),
            "budget": lambda one=one, n=number: ledger.set_budget(one.name, 8 + n / 7, "because"),
            "rebase": lambda one=one, run=run: ledger.rebase(
                one.name, {run: steps(7), "other": steps(3, Mechanism(5.0, 0.1))}, "", "lost"
            ),
        }
        with suppress(BudgetError, ProtocolError):  # a run that was taken over is not begun again
            todo[action]()


HISTORIES = st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 3)), max_size=12)


@settings(max_examples=30, deadline=None)
@given(actions=HISTORIES, cut=st.integers(0, 12))
def test_what_goes_out_comes_back(actions: list[tuple[str, int]], cut: int) -> None:
    with folder() as here:
        ledger, copy = new_ledger(here), new_ledger(here, "copy.sqlite")
        act(ledger, actions)
        exported = lines_of(ledger)
        import_events(copy, exported[:cut])
        added = import_events(copy, exported)
        assert sum(added.values()) == len(exported) - min(cut, len(exported))
        assert tables(copy) == tables(ledger)
        assert lines_of(copy) == exported
        for one in copy.accounts():
            copy.verify(one)
        assert copy.id != ledger.id
        assert not any(import_events(copy, exported).values())
        act(copy, [("commit", 0), ("commit", 1), ("allot", 2)])  # a ledger like any other


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    ledger = new_ledger(tmp_path_factory.mktemp("exported"))
    act(ledger, [("reserve", 0), ("commit", 0), ("rebase", 1), ("budget", 0), ("void-key", 1)])
    return lines_of(ledger)


def refused(exported: list[bytes], line: int | None = None) -> None:
    with folder() as here:
        ledger = new_ledger(here)
        named = "" if line is None else f"^line {line}: "
        with pytest.raises(LedgerError, match=named):
            import_events(ledger, exported)
        assert not ledger.accounts()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_line_is_named(exported: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(exported) - 1))
    line = bytearray(exported[index])
    line[data.draw(st.integers(0, len(line) - 1))] = data.draw(st.integers(0, 255))
    with suppress(ValueError):
        assume(json.loads(bytes(line)) != json.loads(exported[index]))
    refused([*exported[:index], bytes(line), *exported[index + 1 :]], index + 1)


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_any_text_is_refused(exported: list[bytes], data: st.DataObject) -> None:
    values = st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=5,
    )
    line = json.loads(exported[0])
    line[data.draw(st.sampled_from(sorted(line)))] = data.draw(values)
    assume(line != json.loads(exported[0]))
    refused([json.dumps(line).encode()], 1)


def test_lines_lost_twice_or_out_of_order_are_refused(exported: list[bytes]) -> None:
    refused([exported[0], *exported[2:]], 2)
    refused([exported[0], exported[1], exported[1], *exported[2:]], 3)
    refused([exported[1], exported[0], *exported[2:]], 1)
    refused([*exported[:-1], exported[-1][:-20]], len(exported))
    refused([*exported, b"[" * 100_000], len(exported) + 1)


def test_a_chain_with_another_history_is_refused(tmp_path: Path) -> None:
    ours, theirs = new_ledger(tmp_path), new_ledger(tmp_path, "theirs.sqlite")
    for ledger, count in ((ours, 20), (theirs, 10)):
        of = account(ledger)
        ledger.allot(NAME, "one", "plan", steps(count))
        run_rounds(ledger, of, "one", 1, steps(5))
    before = tables(ours)
    with pytest.raises(LedgerError, match=r"event 2: another event stands here"):
        import_events(ours, lines_of(theirs)[1:])
    assert tables(ours) == before


def test_a_longer_ledger_stays_as_it_is(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path)
    of = account(ledger)
    ledger.allot(NAME, "one", "plan", steps(20))
    older = lines_of(ledger)
    run_rounds(ledger, of, "one", 2, steps(5))
    before = tables(ledger)
    assert import_events(ledger, older) == {NAME: 0}
    assert tables(ledger) == before


def test_a_damaged_ledger_is_not_added_to(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path)
    of = account(ledger)
    ledger.allot(NAME, "one", "plan", steps(20))
    older = lines_of(ledger)
    with ledger.database.write() as connection:
        connection.execute(sa.update(schema.allotment).values(allotted=2000))
    with pytest.raises(LedgerError, match="its events say"):
        import_events(ledger, older)
    assert ledger.account(NAME) == ledger.accounts()[0]
    assert of.name == NAME


def test_a_report_has_the_fields_that_people_expect(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path)
    of = account(ledger)
    ledger.allot(NAME, "one", "plan", steps(20))
    run_rounds(ledger, of, "one", 2, steps(5))
    report = export.report(ledger, NAME)
    assert json.loads(json.dumps(report)) == report
    expected = "unit adjacency epsilon delta curve trust_model sampling randomness horizon"
    assert {*expected.split(), "refresh_policy", "public", "not_covered"} <= report.keys()
    assert report["epsilon"] == report["guaranteed"]["epsilon"] > report["accrued"]["epsilon"]
    assert report["guaranteed"]["accountant"]
    assert report["guaranteed"]["version"]
    assert report["audit_evidence"] == {
        "ledger": ledger.id,
        "events": 6,
        "chain_head": ledger.account(NAME).head,
        "verified": True,
    }
    (run,) = report["runs"]
    events = [json.loads(event.body)["at"] for event in ledger.events(NAME)]
    dates = (run["approved"], run["first_round"], run["last_round"])
    assert dates == (events[1], events[2], events[4])
    assert (report["first_event"], report["last_event"]) == (events[0], events[-1])
    ledger.set_budget(NAME, 0.001, "the board")
    decisions = export.report(ledger, NAME)["decisions"]
    assert [each["kind"] for each in decisions] == ["open", "budget", "void"]
    assert all(datetime.fromisoformat(each["at"]).tzinfo for each in decisions)
    assert (decisions[1]["budget"], decisions[1]["reason"]) == (0.001, "the board")
    assert run["left"] == [{**vars(STEP), "steps": 10}]
    assert run["rounds_left"] == 2


def test_no_report_of_a_ledger_that_does_not_add_up(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path)
    account(ledger)
    ledger.allot(NAME, "one", "plan", steps(20))
    with ledger.database.write() as connection:
        connection.execute(sa.update(schema.allotment).values(committed=1))
    with pytest.raises(LedgerError, match="run one"):
        export.report(ledger, NAME)
