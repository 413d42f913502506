"""Rényi bounds, against dp-accounting's own accountants."""

import math
from itertools import pairwise

import pytest
from dp_accounting import dp_event
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

from dpbitfit.accounting.mechanism import Counts, Mechanism
from dpbitfit.accounting.renyi import (
    RDP_ORDERS,
    divergences,
    filter_epsilon,
    filter_order,
    quick_epsilons,
)
from dpbitfit.errors import AccountingError

mechanisms = st.builds(Mechanism, st.floats(0.6, 20), st.floats(1e-4, 1.0))
bags = st.dictionaries(mechanisms, st.integers(1, 2000), min_size=1, max_size=3).map(
    lambda counts: tuple(sorted(counts.items()))
)
deltas = st.sampled_from([1e-9, 1e-6, 1e-5, 1e-3])


def composed(
    accountant: RdpAccountant | PLDAccountant, bag: Counts
) -> RdpAccountant | PLDAccountant:
    for mechanism, steps in bag:
        event = dp_event.PoissonSampledDpEvent(
            mechanism.sampling_rate, dp_event.GaussianDpEvent(mechanism.noise_multiplier)
        )
        accountant.compose(event, steps)
    return accountant


@settings(deadline=None, max_examples=12)
@given(st.lists(bags, min_size=1, max_size=2), deltas)
def test_quick_bounds_are_those_of_rdp(many: list[Counts], delta: float) -> None:
    expected = [composed(RdpAccountant(orders=RDP_ORDERS), bag).get_epsilon(delta) for bag in many]
    assert quick_epsilons(many, delta) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("bag", "delta"),
    [
        (((Mechanism(1.0, 0.01), 1000),), 1e-5),
        (((Mechanism(0.6, 0.01), 1000),), 1e-5),
        (((Mechanism(5.0, 1.0), 100),), 1e-5),
        (((Mechanism(1.0, 0.001), 10_000),), 1e-6),
        (((Mechanism(1.0, 0.01), 300), (Mechanism(2.0, 0.05), 50)), 1e-5),
        (((Mechanism(50.0, 0.001), 1),), 1e-3),
    ],
)
def test_quick_bounds_are_never_below_the_tight_one(bag: Counts, delta: float) -> None:
    assert quick_epsilons([bag], delta)[0] >= composed(PLDAccountant(), bag).get_epsilon(delta)


@pytest.mark.parametrize(
    ("bag", "delta"),
    [
        (((Mechanism(0.7, 0.01), 500),), 1e-5),  # order 4
        (((Mechanism(1.0, 0.01), 100),), 1e-14),  # order 14
        (((Mechanism(5.0, 0.1), 100),), 1e-5),  # order 27
        (((Mechanism(20.0, 0.05), 100),), 1e-6),  # order 185
        (((Mechanism(300.0, 1.0), 1),), 1e-7),  # order 1,700
    ],
)
def test_the_orders_are_as_good_as_all_of_them(bag: Counts, delta: float) -> None:
    """Fails where orders are left out that some compositions need."""
    every = RdpAccountant(orders=[*range(2, 300), *range(300, 4100, 100)])
    assert quick_epsilons([bag], delta)[0] <= 1.1 * composed(every, bag).get_epsilon(delta)


def test_nothing_costs_nothing() -> None:
    assert quick_epsilons([(), ()], 1e-5) == [0.0, 0.0]
    assert quick_epsilons([], 1e-5) == []


@settings(deadline=None, max_examples=15)
@given(bags, deltas, st.sampled_from(RDP_ORDERS))
def test_the_filter_is_rdp_at_its_one_order(bag: Counts, delta: float, order: int) -> None:
    expected = composed(RdpAccountant(orders=[order]), bag).get_epsilon(delta)
    assert filter_epsilon(dict(bag), delta, order) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("budget", [1.0, 2.0, 8.0])
def test_the_order_lets_the_most_run(budget: float) -> None:
    bag = {Mechanism(1.0, 0.01): 1, Mechanism(4.0, 0.01): 1}

    def copies(order: int) -> int:
        low, high = 0, 2**16
        while high - low > 1:
            middle = (low + high) // 2
            fits = filter_epsilon({m: n * middle for m, n in bag.items()}, 1e-5, order) <= budget
            low, high = (middle, high) if fits else (low, middle)
        return low

    chosen = filter_order(bag, 1e-5, budget)
    most = max(copies(order) for order in RDP_ORDERS)
    assert copies(chosen) == most > 0


def test_an_order_is_chosen_even_where_nothing_fits() -> None:
    assert filter_order({Mechanism(1.0, 1.0): 10**6}, 1e-5, 1e-9) in RDP_ORDERS
    assert filter_order({}, 1e-5, 1.0) in RDP_ORDERS


@pytest.mark.parametrize("delta", [0.0, 1.0, -1.0, float("nan")])
def test_impossible_deltas_are_refused(delta: float) -> None:
    bag = {Mechanism(1.0, 0.01): 10}
    with pytest.raises(AccountingError):
        quick_epsilons([tuple(bag.items())], delta)
    with pytest.raises(AccountingError):
        filter_epsilon(bag, delta, 8)
    with pytest.raises(AccountingError):
        filter_order(bag, delta, 1.0)


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(AccountingError):
        filter_epsilon({Mechanism(1.0, 0.01): -1}, 1e-5, 8)


@pytest.mark.parametrize("sigma", [0.01, 1.0, 1e6])
@pytest.mark.parametrize("rate", [1e-9, 0.5, 0.999999, 1.0])
def test_no_divergence_is_lost_at_the_edges(sigma: float, rate: float) -> None:
    result = divergences(Mechanism(sigma, rate))
    assert all(math.isfinite(value) and value > 0 for value in result)
    # A step's divergence grows with the order, and sampling never makes it larger.
    assert all(each <= other * (1 + 1e-12) for each, other in pairwise(result))
    assert all(result <= divergences(Mechanism(sigma, 1.0)) * (1 + 1e-12))
