"""Rényi divergences: the filter for adaptive choices, and quick bounds for many accounts.

The tight accountants bound a composition that was fixed beforehand. They
do not hold as a rule for *when to stop* when later mechanisms are chosen after
results were seen. A filter on the Rényi divergence of one order, itself fixed
beforehand, does: Feldman and Zrnic 2021 (arXiv 2008.11193), theorem 4.3.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from dpbitfit.accounting.mechanism import Counts, Mechanism, check_delta, checked

# Whole orders have a closed form (Mironov, Talwar, Zhang 2019, section 3.3); the series for the
# others takes seconds and often does not converge.
RDP_ORDERS: tuple[int, ...] = (*range(2, 64), *range(64, 256, 8), 256, 512, 1024, 4096)
_ORDERS = np.array(RDP_ORDERS, dtype=np.float64)
# The terms of all orders' sums in one row: of ``order`` draws, two or more hit.
_TERMS = np.array(RDP_ORDERS) - 1
_STARTS = np.cumsum(_TERMS) - _TERMS
_DRAWN = np.concatenate([np.arange(2.0, order + 1) for order in RDP_ORDERS])
_LEFT = np.repeat(_ORDERS, _TERMS) - _DRAWN
_LOG_CHOICES = gammaln(_DRAWN + _LEFT + 1) - gammaln(_DRAWN + 1) - gammaln(_LEFT + 1)


@lru_cache(maxsize=65536)
def divergences(mechanism: Mechanism) -> NDArray[np.float64]:
    """Rényi divergence of one step at each of ``RDP_ORDERS``, for adding or removing one unit.

    The closed form for whole orders (Mironov, Talwar and Zhang 2019, section
    3.3), as dp-accounting computes it, less the binomial sum that is 1: so no
    digit is lost where the divergence is tiny.
    """
    sigma, rate = mechanism.noise_multiplier, mechanism.sampling_rate
    if rate == 1:
        return _ORDERS / (2 * sigma**2)
    terms = _LOG_CHOICES + _DRAWN * np.log(rate) + _LEFT * np.log1p(-rate)
    growth = _DRAWN * (_DRAWN - 1) / (2 * sigma**2)
    terms += growth + np.log(-np.expm1(-growth))
    largest = np.maximum.reduceat(terms, _STARTS)
    sums = np.add.reduceat(np.exp(terms - np.repeat(largest, _TERMS)), _STARTS)
    return np.asarray(np.logaddexp(0.0, largest + np.log(sums)) / (_ORDERS - 1))


def filter_epsilon(steps: Mapping[Mechanism, int], delta: float, order: int) -> float:
    """Epsilon at ``delta`` by the divergence of one fixed ``order`` of ``RDP_ORDERS``.

    The only figure here that may decide whether to go on after results were
    seen. Raises AccountingError as ``accounting.epsilon`` does.
    """
    from dp_accounting.rdp.rdp_privacy_accountant import compute_epsilon  # takes seconds

    check_delta(delta)
    cost = composed(checked(steps))[RDP_ORDERS.index(order)]
    return float(compute_epsilon([order], [cost], delta)[0])


def filter_budget(budget: float, delta: float, order: int, at: float) -> float:
    """Epsilon at the delta ``at`` of the divergence that ``budget`` allows at ``delta``.

    What a filter promises that stops before it passes the budget, at any other delta.
    """
    check_delta(at)
    shift = _fixed(at) - _fixed(delta)
    return max(0.0, budget + float(shift[RDP_ORDERS.index(order)]))


def filter_order(steps: Mapping[Mechanism, int], delta: float, budget: float) -> int:
    """The order with which a filter lets most copies of this composition run within ``budget``."""
    check_delta(delta)
    cost = np.maximum(composed(checked(steps)), 1e-300)
    room = np.maximum(budget - _fixed(delta), 0.0)
    order: int = RDP_ORDERS[int(np.argmax(room / cost))]
    return order


def quick_epsilons(compositions: Iterable[Counts], delta: float) -> list[float]:
    """RDP's upper bound on epsilon for many compositions: a little loose, microseconds for each.

    Canonne, Kamath and Steinke 2020 (arXiv 2004.00010), proposition 12.
    """
    check_delta(delta)
    fixed = _fixed(delta)
    return [
        max(0.0, float(np.min(composed(counts) + fixed))) if counts else 0.0
        for counts in compositions
    ]


def _fixed(delta: float) -> NDArray[np.float64]:
    """What each order adds to a divergence to make it an epsilon."""
    return np.asarray(np.log1p(-1 / _ORDERS) - np.log(delta * _ORDERS) / (_ORDERS - 1))


def composed(counts: Counts) -> NDArray[np.float64]:
    """Rényi divergence of all steps together at each of ``RDP_ORDERS``."""
    total = np.zeros(len(RDP_ORDERS))
    for mechanism, count in counts:
        total += count * divergences(mechanism)
    return total
