"""Epsilon derived from counts: the same as computed independently, remembered, never too small."""

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from dp_accounting import dp_event
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant

from dpbitfit.accounting import composition
from dpbitfit.accounting.mechanism import Counts, Mechanism, checked
from dpbitfit.errors import LedgerError
from dpbitfit.ledger import Ledger, schema, status
from dpbitfit.ledger.bounds import QUICK

from ...support.ledgers import (
    DELTA,
    NAME,
    NOISY,
    OTHER,
    STEP,
    account,
    adaptive,
    new_ledger,
    no_bound,
    run_rounds,
    steps,
)


def independent(accountant: Any, counts: Counts, delta: float = DELTA) -> float:
    for mechanism, count in counts:
        gaussian = dp_event.GaussianDpEvent(mechanism.noise_multiplier)
        event = dp_event.PoissonSampledDpEvent(mechanism.sampling_rate, gaussian)
        accountant.compose(event, count)
    return float(accountant.get_epsilon(delta))


def kept(ledger: Ledger) -> list[Any]:
    with ledger.database.read() as connection:
        return list(connection.execute(sa.select(schema.figure)))


def edit_figures(ledger: Ledger, **values: Any) -> None:
    with ledger.database.write() as connection:
        connection.execute(sa.update(schema.figure).values(**values))


def test_two_plans_approved_beforehand_are_one_bag(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path)
    of = account(ledger)
    other = Mechanism(2.0, 0.01)
    ledger.allot(NAME, "one", "p1", steps(100))
    ledger.allot(NAME, "two", "p2", steps(50, other))
    run_rounds(ledger, of, "one", 2, steps(10))
    run_rounds(ledger, of, "two", 1, steps(10, other), outcome="")
    result = status.budget_status(ledger, of)
    approved = ((STEP, 100), (other, 50))
    spent = ((STEP, 20), (other, 10))
    assert result.guaranteed.bound.epsilon == pytest.approx(
        independent(PLDAccountant(), approved), rel=1e-3
    )
    assert result.accrued.bound.epsilon == pytest.approx(
        independent(PLDAccountant(), spent), rel=1e-3
    )
    assert result.guaranteed.basis == status.FIXED
    assert result.promised == result.guaranteed.bound.epsilon
    assert result.left == pytest.approx(8 - result.guaranteed.bound.epsilon)


def test_a_plan_after_results_is_filtered_and_promises_the_budget(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path)
    of = account(ledger)
    ledger.allot(NAME, "one", "p1", steps(100))
    run_rounds(ledger, of, "one", 1, steps(10))
    ledger.void_rest(NAME, "one")
    ledger.allot(NAME, "two", "p2", steps(50))
    of = ledger.account(NAME)
    result = status.budget_status(ledger, of)
    filtered = independent(RdpAccountant(orders=[of.filter_order]), steps(60))
    assert result.approved.epsilon == pytest.approx(filtered)
    assert result.left == of.budget - result.approved.epsilon
    assert f"order {of.filter_order}" in result.guaranteed.bound.accountant
    assert result.guaranteed.basis == status.FILTERED
    assert result.promised == result.guaranteed.bound.epsilon == of.budget
    spent = independent(RdpAccountant(orders=[of.filter_order]), steps(10))
    assert result.accrued.bound.epsilon == pytest.approx(spent)
    assert status.INFORMATIVE in result.accrued.basis


def test_once_plans_depend_on_results_a_tight_composition_is_no_figure(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path)
    of = adaptive(ledger)
    result = status.budget_status(ledger, of)
    filter_of = RdpAccountant(orders=[of.filter_order])
    assert result.accrued.bound.epsilon == pytest.approx(independent(filter_of, steps(100, NOISY)))
    assert no_bound() < 0.8 * of.budget < result.accrued.bound.epsilon < of.budget
    assert result.guaranteed.bound.epsilon == of.budget
    assert result in status.budget_statuses(ledger)
    assert status.verified_status(ledger, of, ledger.verify(of).allotments) == result
    assert not kept(ledger)


def test_an_adaptive_curve_is_that_of_the_whole_filter(tmp_path: Path) -> None:
    """At each delta, what the divergence costs with which the budget is reached at its own."""
    ledger = new_ledger(tmp_path)
    of = adaptive(ledger)
    rest = checked({NOISY: 100})
    while independent(RdpAccountant(orders=[of.filter_order]), rest) < of.budget:
        rest = checked({NOISY: rest[0][1] + 1})
    for bound in status.stored_curve(ledger, of):
        whole, less = (
            independent(
                RdpAccountant(orders=[of.filter_order]), steps(rest[0][1] - n, NOISY), bound.delta
            )
            for n in (0, 1)
        )
        assert less <= bound.epsilon <= whole


@pytest.mark.parametrize("ending", ["lowered", "rebased", "abandoned"])
def test_a_guarantee_is_never_less_than_what_was_released_under_it(
    ending: str, tmp_path: Path
) -> None:
    """With more approved beforehand, or taken over, than the budget now holds."""
    ledger = new_ledger(tmp_path)
    of = adaptive(ledger)
    if ending == "lowered":
        ledger.set_budget(NAME, 1.0, "the board")
    elif ending == "rebased":
        ledger.rebase(NAME, {"theirs": steps(400, NOISY)}, "other", "it says so")
    else:
        of = account(ledger, OTHER, 6.0)
        ledger.allot(OTHER, "one", "first", steps(125, NOISY))
        run_rounds(ledger, of, "one", 1, steps(10, NOISY))
        ledger.void_rest(OTHER, "one")
        ledger.allot(OTHER, "two", "second", steps(1, NOISY))
    of = ledger.account(of.name)
    most = {"lowered": 100, "rebased": 500, "abandoned": 125}[ending]
    result = status.budget_status(ledger, of)
    wanted = independent(RdpAccountant(orders=[of.filter_order]), steps(most, NOISY))
    assert result.promised == pytest.approx(wanted)
    assert result.promised > of.budget
    assert result.promised >= result.accrued.bound.epsilon


def test_a_figure_is_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = new_ledger(tmp_path)
    of = account(ledger)
    ledger.allot(NAME, "one", "p1", steps(100))
    first = status.budget_status(ledger, of)
    curve = status.stored_curve(ledger, of)
    assert kept(ledger)

    def refuse(*_: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(composition, "epsilon", refuse)
    assert status.stored_epsilon(ledger, steps(100), DELTA) == first.guaranteed.bound
    assert status.stored_curve(ledger, of) == curve


def test_a_figure_of_another_version_is_computed_again(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path)
    of = account(ledger)
    ledger.allot(NAME, "one", "p1", steps(100))
    first = status.budget_status(ledger, of)
    edit_figures(ledger, version="dp-accounting 0.0.1", epsilon=0.001)
    assert status.budget_status(ledger, of) == first
    assert {row.version for row in kept(ledger)} == {first.guaranteed.bound.version}


def test_a_ledger_that_may_only_be_read_gives_figures_and_keeps_none(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path)
    of = account(ledger)
    ledger.allot(NAME, "one", "p1", steps(100))
    reader = Ledger(str(tmp_path / "ledger.sqlite"), readonly=True)
    assert status.budget_status(reader, of).guaranteed.bound.epsilon > 0
    assert not kept(ledger)


def test_the_overview_is_quick_until_the_tight_figure_is_known(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path)
    of = account(ledger)
    account(ledger, OTHER)
    ledger.allot(NAME, "one", "p1", steps(100))
    run_rounds(ledger, of, "one", 3, steps(10))
    quick, empty = status.budget_statuses(ledger)
    assert quick.guaranteed.bound.accountant == QUICK
    assert empty.guaranteed.bound.epsilon == empty.accrued.bound.epsilon == 0
    tight = status.budget_status(ledger, of)
    assert quick.guaranteed.bound.epsilon >= tight.guaranteed.bound.epsilon
    assert quick.accrued.bound.epsilon >= tight.accrued.bound.epsilon
    assert status.budget_statuses(ledger)[0].guaranteed == tight.guaranteed


def test_the_curve_falls_and_holds_the_accounts_own_delta(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path)
    of = account(ledger)
    ledger.allot(NAME, "one", "p1", steps(100))
    curve = status.stored_curve(ledger, of)
    epsilons = [bound.epsilon for bound in curve]
    assert epsilons == sorted(epsilons, reverse=True)
    assert DELTA in [bound.delta for bound in curve]
    for bound in curve[1:]:  # below 1e-10 and near it, discretised accountants lose digits
        expected = independent(PLDAccountant(), steps(100), bound.delta)
        assert bound.epsilon == pytest.approx(expected, rel=1e-2, abs=1e-3)


def test_rounds_left_are_whole_rounds(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path)
    of = account(ledger)
    ledger.allot(NAME, "one", "p1", steps(95))
    ledger.allot(NAME, "two", "p2", steps(10))
    run_rounds(ledger, of, "one", 2, steps(10))
    one, two = ledger.runs(of)
    assert (one.run, one.plan, one.rounds_left) == ("one", "p1", 7)
    assert (one.allotted, one.spent, one.left) == (steps(95), steps(20), steps(75))
    assert two.rounds_left is None
    ledger.void_rest(NAME, "one")
    assert ledger.runs(of)[0].rounds_left == 0


def test_an_edited_figure_is_noticed(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path)
    of = account(ledger)
    ledger.allot(NAME, "one", "p1", steps(100))
    whole = status.budget_status(ledger, of)
    held = ledger.verify(of).allotments
    assert status.verified_status(ledger, of, held) == whole
    edit_figures(ledger, epsilon=0.01)
    with pytest.raises(LedgerError, match=r"north/letters/person: an epsilon of 0\.0100"):
        status.verified_status(ledger, of, held)
