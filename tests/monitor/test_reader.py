"""An account as it is shown, and what is never shown."""

import itertools
import os
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from dpbitfit_monitor.reader import ORPHAN_AFTER, SILENT_AFTER, LedgerViews, UnknownAccount
from dpbitfit_monitor.views import AccountView, State, is_exact, threshold

from dpbitfit.accounting import composition
from dpbitfit.accounting.composition import Bound
from dpbitfit.accounting.mechanism import Counts
from dpbitfit.errors import AccountingError, LedgerError
from dpbitfit.ledger import Account, Ledger, schema, status
from dpbitfit.ledger.bounds import QUICK
from dpbitfit.ledger.canonical import counts_to_text
from tests.support.ledgers import DELTA, NAME, OTHER, STEP, run_rounds, steps

from .conftest import Clock

Refined = Callable[[LedgerViews], LedgerViews]
HOUR = timedelta(hours=1)


def view(reader: LedgerViews) -> AccountView:
    return reader.overview(fresh=True).accounts[0]


def edit(ledger: Ledger, table: sa.Table, where: Any = True, **values: Any) -> None:
    with ledger.database.write() as connection:
        connection.execute(sa.update(table).where(where).values(**values))


def both_exact(account: AccountView) -> bool:
    return is_exact(account.guaranteed.bound) and account.accrued_is_exact


def test_an_account_in_figures(north: Account, south: Account, reader: LedgerViews) -> None:
    first, second = reader.overview().accounts
    assert (first.name, second.name) == (NAME, OTHER)
    assert (first.state, first.run, first.rounds_left) == (State.OK, "one", 6)
    assert (first.ends, first.refusals) == ({"reply": 2, "refused": 1}, {"refused": 1})
    assert (first.open_rounds, first.orphaned, first.silent) == (1, False, False)
    assert first.last_seen is not None
    assert first.asked_since == first.open_since
    assert (second.last_seen, second.rounds_left, second.run) == (None, None, "")
    assert second.accrued.bound.epsilon == second.guaranteed_ratio == 0
    assert both_exact(second)


def test_figures_are_quick_at_first_and_those_of_the_accountants_soon(
    north: Account, reader: LedgerViews, refined: Refined, ledger: Ledger, url: str
) -> None:
    quick = view(reader)
    assert not both_exact(quick)
    exact = view(refined(reader))
    assert both_exact(exact)
    standing = status.budget_status(ledger, ledger.account(NAME))
    assert (exact.guaranteed, exact.accrued) == (standing.guaranteed, standing.accrued)
    assert exact.accrued.bound == composition.epsilon({STEP: 40}, DELTA)
    assert exact.accrued.bound.epsilon < quick.accrued.bound.epsilon
    # What somebody has computed before is taken over.
    assert both_exact(view(LedgerViews(url)))


def test_an_overview_is_some_seconds_old_at_most(
    north: Account, reader: LedgerViews, ledger: Ledger, clock: Clock
) -> None:
    before = reader.overview()
    assert reader.overview() is before
    ledger.commit({"open": "reply"})
    clock.later = timedelta(seconds=4)
    assert reader.overview().accounts[0].open_rounds == 0


def test_silence_is_a_question_without_an_answer(
    north: Account, reader: LedgerViews, ledger: Ledger, clock: Clock
) -> None:
    ledger.commit({"open": "no reply"})
    clock.later = SILENT_AFTER - HOUR
    assert not view(reader).silent
    clock.later = SILENT_AFTER + HOUR
    assert view(reader).state == State.SILENT
    ledger.reserve("one", 4, {north.id: "fifth"}, steps(10))
    ledger.commit({"fifth": "refused"})
    assert view(reader).asked_since is None
    assert view(reader).state == State.OK


def test_a_round_without_an_end_is_an_orphan(
    north: Account, reader: LedgerViews, clock: Clock
) -> None:
    clock.later = ORPHAN_AFTER + HOUR
    assert view(reader).state == State.ORPHANED
    (one,) = reader.account(NAME).open_rounds
    assert (one.key, one.run, one.round, one.since) == ("open", "one", 3, view(reader).open_since)


def test_ledgers_that_disagree(north: Account, reader: LedgerViews, ledger: Ledger) -> None:
    assert view(reader).state == State.OK
    peer = {"ledger": "b" * 64, "coordinator": "b" * 64, "sequence": 9, "head": "d" * 64}
    output = {**peer, "spent": counts_to_text(steps(30)), "drift": "a backup was restored"}
    with ledger.database.write() as connection:
        connection.execute(sa.insert(schema.peer).values(account_id=north.id, **output))
    assert view(reader).drift == reader.account(NAME).view.drift == "a backup was restored"
    assert view(reader).state == State.DRIFTED


@pytest.mark.parametrize(
    ("part", "state"),
    [(0.49, State.OK), (0.8, State.NEAR), (0.951, State.NEAR), (0.996, State.SPENT)],
)
def test_a_budget_that_runs_out(
    part: float, state: State, north: Account, reader: LedgerViews, refined: Refined, ledger: Ledger
) -> None:
    spent = composition.epsilon({STEP: 40}, DELTA).epsilon
    ledger.set_budget(NAME, spent / part, "for the test")
    assert view(reader).state == State.OK  # by a quick bound nothing is spent
    result = view(refined(reader))
    assert result.state == state
    assert result.used_ratio == pytest.approx(part)
    assert result.reached == threshold(part)


def test_what_is_guaranteed_is_not_taken_for_what_is_spent(
    north: Account,
    reader: LedgerViews,
    refined: Refined,
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = composition.epsilon({STEP: 100}, DELTA)
    ledger.set_budget(NAME, whole.epsilon, "just the plan")
    reader.bounds.take_over([((steps(100), DELTA), whole)])  # the larger figure is known first

    def far_too_high(bags: list[Counts], delta: float) -> list[Bound]:
        return [replace(whole, epsilon=99.0, accountant=QUICK) for _ in bags]

    monkeypatch.setattr("dpbitfit_monitor.bounds.quick_bounds", far_too_high)
    for result in (view(reader), reader.account(NAME).view):
        assert result.accrued.bound == whole
        assert (result.accrued_is_exact, result.reached, result.state) == (False, 0, State.OK)
    result = view(refined(reader))
    assert result.accrued.bound == composition.epsilon({STEP: 40}, DELTA)
    assert (result.accrued_is_exact, result.reached) == (True, threshold(result.used_ratio))


def test_what_is_reached_is_what_is_read() -> None:
    ratios = (0.0, 0.4999, 0.5, 0.7999, 0.8, 0.9499, 0.95, 0.9949, 0.995, 7.0)
    assert [threshold(one) for one in ratios] == [
        0,
        0,
        0.5,
        0.5,
        0.8,
        0.8,
        0.95,
        0.95,
        0.995,
        0.995,
    ]


def test_all_about_an_account(
    north: Account, reader: LedgerViews, refined: Refined, ledger: Ledger
) -> None:
    reader.account(NAME)
    result = refined(reader).account(NAME)
    assert result.view == view(reader)
    assert [point.rounds for point in result.series] == [1, 2, 3]
    wanted = [composition.epsilon({STEP: n}, DELTA) for n in (10, 20, 30)]
    assert [point.bound for point in result.series] == wanted
    assert list(result.curve) == status.stored_curve(ledger, ledger.account(NAME))
    assert [run.run for run in result.runs] == ["one"]
    for message in ("person", "adding or removing one unit", "1e-05", "PLD", "Not covered"):
        assert message in result.view.sentence
    with pytest.raises(UnknownAccount):
        reader.account(NAME._replace(unit="nobody"))


def test_a_long_series_is_thinned_out_and_ends_with_now(
    north: Account, reader: LedgerViews, ledger: Ledger
) -> None:
    ledger.allot(NAME, "two", "plan", steps(200))
    run_rounds(ledger, north, "two", 130, steps(1))
    before = reader.account(NAME).series
    ledger.reserve("two", 130, {north.id: "one more"}, steps(1))
    ledger.commit({"one more": "reply"})
    after = reader.account(NAME).series
    for points, last in ((before, 133), (after, 134)):
        assert points[-1].rounds == last
        assert 30 <= len(points) <= 60
        assert len({b.rounds - a.rounds for a, b in itertools.pairwise(points[:-1])}) == 1
    # Nothing but the last point is new, so that a look asks for one new bound.
    assert {one.rounds for one in after[:-1]} <= {one.rounds for one in before}


def test_the_sentence_of_an_adaptive_account_promises_the_budget(
    north: Account, reader: LedgerViews, ledger: Ledger
) -> None:
    ledger.allot(NAME, "two", "plan", steps(10))
    result = view(reader)
    assert result.guaranteed.bound.epsilon == result.budget == 8
    assert "at most epsilon 8.000" in result.sentence
    assert status.FILTERED in result.sentence


@pytest.mark.parametrize(
    ("table", "values"),
    [
        (schema.account, {"budget": "many"}),
        (schema.account, {"budget": "0"}),
        (schema.account, {"budget": "nan"}),
        (schema.account, {"delta": "2"}),
        (schema.account, {"sequence": 99}),
        (schema.account, {"head": "f" * 64}),
        (schema.allotment, {"noise_multiplier": "none"}),
        (schema.event, {"body": "{"}),
        (schema.event, {"body": "[]"}),
        (schema.event, {"hash": "0" * 64}),
    ],
)
def test_a_corrupt_account_shows_no_figure(
    table: sa.Table,
    values: dict[str, Any],
    north: Account,
    south: Account,
    reader: LedgerViews,
    url: str,
    ledger: Ledger,
) -> None:
    reader.overview()
    of = table.c.id if table is schema.account else table.c.account_id
    with ledger.database.write() as connection:
        connection.execute(sa.update(table).where(of == north.id).values(**values))
        if table is not schema.account:  # what happens later is read, too
            connection.execute(
                sa.update(schema.account)
                .where(schema.account.c.id == north.id)
                .values(sequence=schema.account.c.sequence + 1)
            )
    for one in (reader, LedgerViews(url)):
        for _ in range(2):
            result = one.overview(fresh=True)
            assert [view.name for view in result.accounts] == [OTHER]
            assert [lost.name for lost in result.unreadable] == [NAME]
        with pytest.raises(LedgerError):
            one.account(NAME)


@pytest.mark.parametrize(
    ("table", "values"),
    [
        (schema.allotment, {"committed": 0}),
        (schema.reservation, {"outcome": "reply", "state": "released"}),
        (schema.event, {"hash": "0" * 64}),
    ],
)
def test_what_is_changed_behind_everybodys_back_is_noticed_in_time(
    table: sa.Table,
    values: dict[str, Any],
    north: Account,
    south: Account,
    reader: LedgerViews,
    ledger: Ledger,
) -> None:
    assert len(reader.overview().accounts) == 2
    with ledger.database.write() as connection:
        connection.execute(sa.update(table).where(table.c.account_id == north.id).values(**values))
    for _ in range(2):
        reader.verify_next()
    result = reader.overview(fresh=True)
    assert [lost.name for lost in result.unreadable] == [NAME]
    assert [view.name for view in result.accounts] == [OTHER]


def test_what_is_mended_is_shown_again(north: Account, reader: LedgerViews, ledger: Ledger) -> None:
    of = schema.allotment.c.account_id == north.id
    for committed, shown in ((0, 0), (30, 1)):
        with ledger.database.write() as connection:
            change = sa.update(schema.allotment).where(of).values(committed=committed)
            connection.execute(change)
        with suppress(LedgerError):
            reader.account(NAME)
        assert len(reader.overview(fresh=True).accounts) == shown


def test_a_figure_that_no_accountant_gives_is_not_shown(
    north: Account, reader: LedgerViews, refined: Refined, monkeypatch: pytest.MonkeyPatch
) -> None:
    def contradict(*_: object) -> None:
        raise AccountingError("the accountants contradict each other")

    monkeypatch.setattr(composition, "epsilon", contradict)
    refined(reader)
    result = reader.overview(fresh=True)
    assert not result.accounts
    assert "contradict" in result.unreadable[0].problem
    with pytest.raises(LedgerError, match="contradict"):
        reader.account(NAME)


def test_a_ledger_that_is_migrated_is_not_read_as_it_was(
    north: Account, reader: LedgerViews, ledger: Ledger
) -> None:
    reader.overview()
    with ledger.database.write() as connection:
        connection.exec_driver_sql(f"UPDATE {schema.VERSION_TABLE} SET version_num = '9999'")
    for _ in range(2):
        with pytest.raises(LedgerError, match="newer version"):
            reader.overview(fresh=True)
    with ledger.database.write() as connection:
        change = f"UPDATE {schema.VERSION_TABLE} SET version_num = '{schema.REVISION}'"
        connection.exec_driver_sql(change)
    assert view(reader).rounds_left == 6


def test_a_locked_ledger_is_reported_as_locked(
    north: Account, reader: LedgerViews, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpbitfit_monitor.reader.WAIT_SECONDS", 0.2)
    reader.overview()
    if ledger.database.is_sqlite:
        ledger.database.close()
        with sqlite3.connect(str(ledger.database.url.database)) as holder:
            holder.execute("PRAGMA journal_mode=DELETE")
            holder.execute("BEGIN EXCLUSIVE")
            with pytest.raises(LedgerError, match="another process holds it"):
                reader.overview(fresh=True)
    else:
        with ledger.database.write() as connection:
            connection.exec_driver_sql("LOCK TABLE account IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(LedgerError, match="another process holds it"):
                reader.overview(fresh=True)
    assert view(reader).rounds_left == 6


def test_a_ledger_that_is_gone_or_damaged_is_not_remembered(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    new_ledger = Ledger(str(path), create=True)
    new_ledger.open_account(NAME, DELTA, 8.0)
    new_ledger.database.close()
    reader = LedgerViews(str(path))
    assert reader.overview().accounts
    moved = path.rename(tmp_path / "moved")
    with pytest.raises(LedgerError, match="no ledger here"):
        reader.overview(fresh=True)
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(LedgerError, match="damaged or no ledger"):
        reader.overview(fresh=True)
    path.unlink()
    os.rename(moved, path)
    assert reader.overview(fresh=True).accounts


def test_another_ledger_in_the_same_place_is_read_anew(tmp_path: Path) -> None:
    path, other = tmp_path / "ledger.sqlite", tmp_path / "other.sqlite"
    for at, name in ((path, NAME), (other, OTHER)):
        new_ledger = Ledger(str(at), create=True)
        new_ledger.open_account(name, DELTA, 8.0)
        new_ledger.database.close()
    reader = LedgerViews(str(path))
    assert view(reader).name == NAME
    for leftover in tmp_path.glob("ledger.sqlite*"):
        leftover.unlink()
    other.rename(path)
    assert view(reader).name == OTHER


def test_nothing_is_written(
    north: Account, reader: LedgerViews, refined: Refined, url: str
) -> None:
    refined(reader).account(NAME)
    reader.forecast(NAME, 0.02, 10)
    with Ledger(url) as ledger, ledger.database.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(schema.figure)) == 0


def test_a_forecast_keeps_to_its_limits(north: Account, reader: LedgerViews) -> None:
    made = reader.forecast(NAME, 0.02, 10, 4.0)
    assert made.fits
    assert made.approved is not None
    assert made.approved.accountant.startswith("RDP filter")
    for rate, number, noise in ((2.0, 10, 0.0), (0.1, 0, 0.0), (0.1, 10**7, 0.0), (0.1, 10, -1.0)):
        with pytest.raises(AccountingError):
            reader.forecast(NAME, rate, number, noise)
    with pytest.raises(UnknownAccount):
        reader.forecast(OTHER, 0.02, 10)


def test_views_of_one_moment_are_equal(north: Account, reader: LedgerViews) -> None:
    first, second = reader.overview(fresh=True), reader.overview(fresh=True)
    assert replace(first, at=second.at) == second
