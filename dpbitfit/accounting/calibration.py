"""How much noise a plan needs to stay within its target."""

import math
from collections.abc import Callable
from functools import lru_cache

from scipy.optimize import brentq

from dpbitfit.accounting.composition import epsilon, unchecked_epsilon
from dpbitfit.accounting.mechanism import Counts, Mechanism, check_delta, merged
from dpbitfit.accounting.renyi import filter_epsilon, quick_epsilons
from dpbitfit.errors import AccountingError

LARGEST_EPSILON = 1e4
SMALLEST_SIGMA, LARGEST_SIGMA = 0.05, 1e4


@lru_cache(maxsize=256)
def calibrate(
    target_epsilon: float,
    delta: float,
    sampling_rate: float,
    steps: int,
    beside: Counts = (),
    order: int | None = None,
) -> float:
    """The smallest noise multiplier, to 0.1 %, with which ``steps`` cost at most the target.

    They are composed with what stands ``beside`` them; with an ``order``, by the
    filter of that order instead of the smallest bound. Raises AccountingError
    for a target that is not above 0 and at most 10,000, or that no noise multiplier
    between 0.05 and 10,000 reaches.
    """
    if not (math.isfinite(target_epsilon) and 0 < target_epsilon <= LARGEST_EPSILON):
        raise AccountingError(
            f"the target epsilon must be above 0 and at most {LARGEST_EPSILON:,.0f}, "
            f"not {target_epsilon!r}"
        )
    check_delta(delta)
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= 10**8:
        raise AccountingError(f"the steps must be 1 to 1e8, not {steps!r}")

    def with_noise(figure: Callable[[Counts], float]) -> Callable[[float], float]:
        return lambda sigma: figure(merged((*beside, (Mechanism(sigma, sampling_rate), steps))))

    quick, search, cost = map(with_noise, _figures(delta, order))
    low, high = SMALLEST_SIGMA, LARGEST_SIGMA
    if quick(high) > target_epsilon:
        raise AccountingError(
            f"no noise multiplier reaches epsilon {target_epsilon:g} with {steps} steps at "
            f"rate {sampling_rate:g}: fewer steps, a smaller rate or a larger target"
        )
    # RDP answers at once and asks for a little too much noise: it brackets the search.
    high = _root(quick, target_epsilon, low, high)
    low = max(SMALLEST_SIGMA, high / 2)
    while low > SMALLEST_SIGMA and search(low) <= target_epsilon:
        low = max(SMALLEST_SIGMA, low / 2)
    root = _root(search, target_epsilon, low, high)
    sigma = rounded_up(root)
    while cost(sigma) > target_epsilon:
        sigma = rounded_up(sigma * (1 + 1e-6))
    return sigma


def rounded_up(value: float) -> float:
    """To four digits, so that the figure that people read is the one that is used."""
    digit = 10.0 ** (math.floor(math.log10(value)) - 3)
    return float(f"{math.ceil(value / digit) * digit:.4g}")


def _figures(delta: float, order: int | None) -> tuple[Callable[[Counts], float], ...]:
    """Epsilon of counts: a quick bound, one for searches, and the one that is published.

    With an ``order`` they are all its filter's.
    """
    if order is not None:
        return (lambda counts: filter_epsilon(dict(counts), delta, order),) * 3
    return (
        lambda counts: quick_epsilons([counts], delta)[0],
        lambda counts: unchecked_epsilon(counts, delta),
        lambda counts: epsilon(dict(counts), delta).epsilon,
    )


def _root(cost: Callable[[float], float], target: float, low: float, high: float) -> float:
    """The sigma at which a falling cost passes the target, or the nearest end of the bracket."""

    def excess(log_sigma: float) -> float:
        return math.log(min(max(cost(math.exp(log_sigma)), 1e-12), 1e12) / target)

    first, last = math.log(low), math.log(high)
    if excess(first) <= 0:
        return low
    if excess(last) >= 0:
        return high
    return math.exp(brentq(excess, first, last, xtol=3e-4))
