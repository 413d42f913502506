"""Figures against independent ones, and no bad number reaches an accountant."""

import math

import prv_accountant
import pytest
from dp_accounting import dp_event
from dp_accounting.pld import PLDAccountant, privacy_loss_distribution
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import log_ndtr

from dpbitfit.accounting import composition
from dpbitfit.accounting.calibration import calibrate
from dpbitfit.accounting.composition import delta, epsilon
from dpbitfit.accounting.mechanism import Mechanism
from dpbitfit.errors import AccountingError


def event(mechanism: Mechanism) -> dp_event.DpEvent:
    """One step in dp-accounting's terms."""
    noise = dp_event.GaussianDpEvent(mechanism.noise_multiplier)
    return dp_event.PoissonSampledDpEvent(mechanism.sampling_rate, noise)


def independent(sigma: float, rate: float, steps: int, at_delta: float) -> float:
    accountant = PLDAccountant()
    accountant.compose(event(Mechanism(sigma, rate)), steps)
    return float(accountant.get_epsilon(at_delta))


@pytest.mark.parametrize(
    ("sigma", "rate", "steps", "at_delta"),
    [(1, 0.01, 1000, 1e-5), (0.6, 0.01, 1000, 1e-5), (2, 0.1, 1000, 1e-5), (5, 1, 100, 1e-5)],
)
def test_figures_agree_with_an_independent_computation(
    sigma: float, rate: float, steps: int, at_delta: float
) -> None:
    bound = epsilon({Mechanism(sigma, rate): steps}, at_delta)
    assert bound.epsilon == pytest.approx(independent(sigma, rate, steps, at_delta), abs=0.02)
    assert bound.lower <= bound.epsilon
    assert bound.accountant in ("PRV", "PLD", "RDP")
    assert bound.version.split()[1][0].isdigit()


def test_a_full_batch_is_the_analytic_gaussian_mechanism() -> None:
    """Balle and Wang 2018, theorem 8: an exact figure with no accountant in it."""
    sigma, at = 2.0, epsilon({Mechanism(2.0, 1.0): 1}, 1e-5).epsilon

    def phi(x: float) -> float:
        return 0.5 * math.erfc(-x / math.sqrt(2))

    exact = phi(0.5 / sigma - at * sigma) - math.exp(at) * phi(-0.5 / sigma - at * sigma)
    assert exact <= 1e-5
    assert exact > 0.97e-5


def gaussian(sigma: float, at_delta: float) -> float:
    """Epsilon of the Gaussian mechanism to the digit (Balle and Wang 2018, theorem 8)."""

    def excess(at: float) -> float:
        most = log_ndtr(0.5 / sigma - at * sigma)
        less = min(at + log_ndtr(-0.5 / sigma - at * sigma) - most, -1e-300)
        return float(most + math.log(-math.expm1(less)) - math.log(at_delta))

    return float(brentq(excess, 0, 50 * (1 / sigma**2 + 1 / sigma)))


@pytest.mark.parametrize("at_delta", [1e-10, 1e-9, 1e-8, 1e-5])
@pytest.mark.parametrize(("sigma", "steps"), [(200, 10**6), (50, 10**5), (50, 10**4)])
def test_no_figure_falls_below_an_exact_one(sigma: float, steps: int, at_delta: float) -> None:
    """PLD alone would: of so many steps its transform rounds away up to 0.3 of an epsilon of 43."""
    exact = gaussian(sigma / math.sqrt(steps), at_delta)
    assert exact <= epsilon({Mechanism(sigma, 1.0): steps}, at_delta).epsilon < 1.1 * exact


@pytest.mark.parametrize(
    ("sigma", "rate", "steps"),
    [(0.4, 0.1, 100), (0.3, 0.001, 1000), (0.5, 0.2, 5000), (1.0, 0.1, 10**5)],
)
def test_a_large_epsilon_is_as_tight_as_a_small_one(sigma: float, rate: float, steps: int) -> None:
    """By RDP alone these would be 1.5 to 5 times as large."""
    accountant = PLDAccountant(value_discretization_interval=1e-3)
    gaussian = dp_event.GaussianDpEvent(sigma)
    accountant.compose(dp_event.PoissonSampledDpEvent(rate, gaussian), steps)
    bound = epsilon({Mechanism(sigma, rate): steps}, 1e-5)
    assert bound.accountant == "PLD"
    assert bound.epsilon == pytest.approx(accountant.get_epsilon(1e-5), rel=2e-3)


@pytest.mark.parametrize(("sigma", "rate"), [(1000.0, 0.01), (10.0, 0.001), (1.0, 1e-6)])
def test_a_hundred_million_steps_are_answered(sigma: float, rate: float) -> None:
    bound = epsilon({Mechanism(sigma, rate): 10**8}, 1e-5)
    assert bound.accountant == "RDP"
    assert 0 < delta({Mechanism(sigma, rate): 10**8}, bound.epsilon) < 2e-5


def test_parts_of_a_composition_cost_no_more_and_order_does_not_matter() -> None:
    one, other = Mechanism(1.0, 0.05), Mechanism(2.0, 0.2)
    both = epsilon({one: 30, other: 10}, 1e-5).epsilon
    assert epsilon({other: 10, one: 30}, 1e-5).epsilon == both
    assert epsilon({one: 30}, 1e-5).epsilon < both
    assert epsilon({one: 29, other: 10}, 1e-5).epsilon < both
    assert epsilon({}, 1e-5).epsilon == 0


def test_each_round_of_a_run_costs_what_an_accountant_of_its_own_says() -> None:
    """To the bit: what is kept of a step's losses from round to round is not changed by them."""
    first, then = Mechanism(4.0, 1.0), Mechanism(1.3, 0.1)
    for rounds in (1, 2, 3, 2):
        counts = ((then, 5 * rounds), (first, 1))
        accountant = PLDAccountant()
        for mechanism, count in counts:
            accountant.compose(event(mechanism), count)
        ours = composition._pld(counts, 8.0, fine=True).get_epsilon_for_delta(1e-5)
        assert ours == accountant.get_epsilon(1e-5)


def test_a_tiny_delta_is_answered_by_rdp() -> None:
    assert epsilon({Mechanism(1.0, 0.01): 100}, 1e-14).accountant == "RDP"


def test_delta_and_epsilon_are_inverse() -> None:
    steps = {Mechanism(1.0, 0.05): 100}
    bound = epsilon(steps, 1e-5)
    assert delta(steps, bound.epsilon) == pytest.approx(1e-5, rel=0.05)
    assert delta({}, 1.0) == 0
    with pytest.raises(AccountingError, match="epsilon"):
        delta(steps, -1.0)


@pytest.mark.parametrize(
    ("target", "at_delta", "rate", "steps"),
    [
        *[(8.0, 1e-5, 0.25, 24), (1.0, 1e-6, 0.05, 100), (3.0, 1e-12, 0.1, 50)],
        *[(37.0, 1e-5, 0.1, 100), (45.0, 1e-5, 0.1, 100), (60.0, 1e-5, 0.1, 100)],
        *[(20.0, 1e-5, 1e-3, 1000), (400.0, 1e-5, 0.1, 1000)],
    ],
)
def test_calibration_is_within_the_target_and_wastes_little(
    target: float, at_delta: float, rate: float, steps: int
) -> None:
    sigma = calibrate(target, at_delta, rate, steps)
    assert epsilon({Mechanism(sigma, rate): steps}, at_delta).epsilon <= target
    assert epsilon({Mechanism(sigma * 0.995, rate): steps}, at_delta).epsilon > target


@settings(deadline=None, max_examples=15)
@given(
    sigma=st.floats(0.5, 20),
    rate=st.floats(1e-3, 1),
    steps=st.integers(1, 300),
    more=st.integers(1, 50),
)
def test_more_steps_never_cost_less(sigma: float, rate: float, steps: int, more: int) -> None:
    mechanism = Mechanism(sigma, rate)
    few, many = (epsilon({mechanism: n}, 1e-5).epsilon for n in (steps, steps + more))
    # PRV's error moves with its grid: two figures may cross by that much and no more.
    assert many >= few - 2 * composition.PRV_EPSILON_ERROR


def test_accountants_that_contradict_each_other_publish_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(composition, "_prv", lambda *_: (90.0, 91.0))
    with pytest.raises(AccountingError, match="contradict"):
        epsilon({Mechanism(1.234, 0.0123): 77}, 1e-5)


def test_what_is_published_of_prv_is_its_upper_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its estimate, in the middle, may lie below what the mechanism costs."""

    class Far:
        """PRV's accountant with its three figures far apart."""

        def __init__(self, **_: object) -> None:
            pass

        def compute_epsilon(self, **_: object) -> tuple[float, float, float]:
            return 0.1, 0.2, 0.3

    monkeypatch.setattr(prv_accountant, "PRVAccountant", Far)
    bound = epsilon({Mechanism(1.3579, 0.0123): 77}, 1e-5)
    assert (bound.accountant, bound.lower, bound.epsilon) == ("PRV", 0.1, 0.3)


NOT_NUMBERS = [math.nan, math.inf, -1.0, 0.0]


@pytest.mark.parametrize("bad", [*NOT_NUMBERS, 1e9])
def test_a_bad_noise_multiplier_answers_at_once(bad: float) -> None:
    with pytest.raises(AccountingError, match="noise multiplier"):
        Mechanism(bad, 0.1)


@pytest.mark.parametrize("bad", [*NOT_NUMBERS, 1.01, 1e-12])
def test_a_bad_sampling_rate_answers_at_once(bad: float) -> None:
    with pytest.raises(AccountingError, match="sampling rate"):
        Mechanism(1.0, bad)


@pytest.mark.parametrize("bad", [*NOT_NUMBERS, 1.0, 2.0])
def test_a_bad_delta_answers_at_once(bad: float) -> None:
    with pytest.raises(AccountingError, match="delta"):
        epsilon({Mechanism(1.0, 0.1): 1}, bad)
    with pytest.raises(AccountingError, match="delta"):
        calibrate(1.0, bad, 0.1, 1)


@pytest.mark.parametrize("bad", [-1, 10**9, True, 1.5, math.nan])
def test_a_bad_count_answers_at_once(bad: int) -> None:
    with pytest.raises(AccountingError, match="count"):
        epsilon({Mechanism(1.0, 0.1): bad}, 1e-5)


@pytest.mark.parametrize("bad", [*NOT_NUMBERS, 1e9])
def test_a_bad_target_answers_at_once(bad: float) -> None:
    with pytest.raises(AccountingError, match="target epsilon"):
        calibrate(bad, 1e-5, 0.1, 10)


def test_a_target_out_of_reach_says_what_would_help() -> None:
    with pytest.raises(AccountingError, match="fewer steps"):
        calibrate(1e-3, 1e-12, 1.0, 10**8)
    with pytest.raises(AccountingError, match="steps"):
        calibrate(1.0, 1e-5, 0.1, 0)


def test_little_loss_of_many_steps_is_not_none() -> None:
    """dp-accounting's RDP says 0 where rounding makes a divergence negative."""
    steps = {Mechanism(1e6, 1e-3): 10**6}
    for small in (1e-7, 1e-9, 1e-12):
        assert composition.epsilon(steps, small).epsilon > 1e-7
    assert composition.delta(steps, 0.0) > 1e-7


@pytest.mark.parametrize(
    ("sigma", "rate", "steps", "delta"), [(10.0, 1e-3, 10**5, 1e-5), (1.5, 1e-4, 3 * 10**5, 1e-7)]
)
def test_many_steps_of_little_loss_cost_little_more_than_on_a_finer_grid(
    sigma: float, rate: float, steps: int, delta: float
) -> None:
    published = composition.epsilon({Mechanism(sigma, rate): steps}, delta).epsilon
    step = privacy_loss_distribution.from_gaussian_mechanism(
        sigma, value_discretization_interval=2e-6, sampling_prob=rate
    )
    finer = step.self_compose(steps).get_epsilon_for_delta(delta)
    assert finer <= published <= 1.005 * finer
