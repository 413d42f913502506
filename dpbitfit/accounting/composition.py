"""From mechanisms and counts to epsilon: the smallest valid upper bound, and its name.

Three accountants, all upper bounds for adding or removing one unit:

- PRV (Gopi, Lee, Wutschitz, NeurIPS 2021), which also gives a lower bound;
- PLD (Doroshenko et al., PoPETs 2022), the tightest and flattest in the steps;
- RDP (Mironov 2017; Mironov, Talwar, Zhang 2019), which never fails.

The smallest is published. When PRV's *lower* bound lies above PLD's upper
bound, one of them is wrong and nothing is published.
"""

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import Any

from dp_accounting import dp_event
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from prv_accountant import PoissonSubsampledGaussianMechanism, PRVAccountant

from dpbitfit.errors import AccountingError

# Whole orders have a closed form (Mironov, Talwar, Zhang 2019, section 3.3); the series for the
# others takes seconds and often does not converge.
RDP_ORDERS: tuple[int, ...] = (*range(2, 64), *range(64, 256, 8), 256, 512, 1024, 4096)
# Below this delta the discretised accountants lose their digits; RDP keeps its own.
SMALLEST_DISCRETISED_DELTA = 1e-10
# prv-accountant's time and memory grow with the steps: 1e5 of them took 100 s and 2.5 GB.
MOST_PRV_STEPS = 20_000
PRV_EPSILON_ERROR = 0.01
# Above this the discretised accountants take minutes, for figures that promise nothing.
LARGEST_DISCRETISED_EPSILON = 40.0


@dataclass(frozen=True, order=True)
class Mechanism:
    """One noisy step: the Gaussian mechanism on a Poisson sample.

    ``noise_multiplier`` is the noise's standard deviation over the clipping
    norm; ``sampling_rate`` is each unit's probability of taking part.
    """

    noise_multiplier: float
    sampling_rate: float

    def __post_init__(self) -> None:
        sigma, rate = self.noise_multiplier, self.sampling_rate
        if not (math.isfinite(sigma) and 1e-2 <= sigma <= 1e6):
            raise AccountingError(f"the noise multiplier must be in [0.01, 1e6], not {sigma!r}")
        if not (math.isfinite(rate) and 1e-9 <= rate <= 1):
            raise AccountingError(f"the sampling rate must be in [1e-9, 1], not {rate!r}")

    def __str__(self) -> str:
        return f"noise multiplier {self.noise_multiplier:g} at rate {self.sampling_rate:g}"


Counts = tuple[tuple[Mechanism, int], ...]


@dataclass(frozen=True)
class Bound:
    """An upper bound on epsilon at ``delta``, and who says so.

    ``lower`` is PRV's lower bound where PRV ran, else 0.
    """

    epsilon: float
    delta: float
    accountant: str
    version: str
    lower: float


def epsilon(steps: Mapping[Mechanism, int], delta: float) -> Bound:
    """The smallest valid upper bound on the composition of ``steps``.

    Add-or-remove-one adjacency. Raises AccountingError for a delta outside
    (0, 1), a count that is not a whole number from 0 to 1e8, or accountants
    that contradict each other.
    """
    check_delta(delta)
    return _epsilon(checked(steps), delta)


def delta(steps: Mapping[Mechanism, int], epsilon: float) -> float:
    """The smaller of PLD's and RDP's upper bounds on delta at ``epsilon``.

    Raises AccountingError for an epsilon below 0 or a count that is not a whole
    number from 0 to 1e8.
    """
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise AccountingError(f"epsilon must be 0 or more, not {epsilon!r}")
    counts = checked(steps)
    if not counts:
        return 0.0
    return float(min(_compose(of, counts).get_delta(epsilon) for of in (PLDAccountant, _rdp_of)))


def unchecked_epsilon(counts: Counts, delta: float) -> float:
    """One accountant's bound, for searches: PLD where it keeps its digits, else RDP.

    A figure that is published comes from ``epsilon``, which compares them.
    """
    rdp = _rdp(counts, delta)
    tight = delta >= SMALLEST_DISCRETISED_DELTA and rdp <= 1.5 * LARGEST_DISCRETISED_EPSILON
    return min(rdp, _pld(counts, delta)) if tight else rdp


def checked(steps: Mapping[Mechanism, int]) -> Counts:
    """Counts in a canonical order, zeros left out; AccountingError for one out of range."""
    for mechanism, count in steps.items():
        if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= 10**8:
            raise AccountingError(f"{mechanism}: the count must be 0 to 1e8, not {count!r}")
    return tuple(sorted((m, n) for m, n in steps.items() if n))


def merged(counts: Iterable[tuple[Mechanism, int]]) -> Counts:
    """The counts of each mechanism added up, in canonical order."""
    total: Counter[Mechanism] = Counter()
    for mechanism, count in counts:
        total[mechanism] += count
    return checked(total)


def check_delta(delta: float) -> None:
    """Raise AccountingError for a delta outside (0, 1)."""
    if not (math.isfinite(delta) and 0 < delta < 1):
        raise AccountingError(f"delta must be in (0, 1), not {delta!r}")


@lru_cache(maxsize=4096)
def _epsilon(counts: Counts, delta: float) -> Bound:
    if not counts:
        return Bound(0.0, delta, "PLD", version_of("PLD"), 0.0)
    uppers = {"RDP": _rdp(counts, delta)}
    lower = 0.0
    if delta >= SMALLEST_DISCRETISED_DELTA and uppers["RDP"] <= 1.5 * LARGEST_DISCRETISED_EPSILON:
        uppers["PLD"] = _pld(counts, delta)
        bracket = _prv(counts, delta)
        if bracket is not None:
            lower, uppers["PRV"] = bracket
    valid = {name: value for name, value in uppers.items() if math.isfinite(value)}
    if not valid:
        raise AccountingError(
            "no accountant bounds this composition; use fewer steps or more noise"
        )
    name = min(valid, key=lambda key: valid[key])
    if lower > min(valid.values()):
        bag = ", ".join(f"{steps} steps of {mechanism}" for mechanism, steps in counts)
        raise AccountingError(f"the accountants contradict each other on {bag} at delta {delta:g}")
    return Bound(max(valid[name], 0.0), delta, name, version_of(name), max(lower, 0.0))


@lru_cache
def version_of(accountant: str) -> str:
    """The package and version behind an accountant's name."""
    package = "prv-accountant" if accountant == "PRV" else "dp-accounting"
    return f"{package} {version(package)}"


def event(mechanism: Mechanism) -> dp_event.DpEvent:
    """One step in dp-accounting's terms."""
    return dp_event.PoissonSampledDpEvent(
        mechanism.sampling_rate, dp_event.GaussianDpEvent(mechanism.noise_multiplier)
    )


def _pld(counts: Counts, delta: float) -> float:
    return float(_compose(PLDAccountant, counts).get_epsilon(delta))


def _rdp(counts: Counts, delta: float) -> float:
    return float(_compose(_rdp_of, counts).get_epsilon(delta))


def _rdp_of() -> Any:
    return RdpAccountant(orders=RDP_ORDERS)


def _compose(accountant_of: Callable[[], Any], counts: Counts) -> Any:
    accountant = accountant_of()
    for mechanism, count in counts:
        accountant.compose(event(mechanism), count)
    return accountant


def _prv(counts: Counts, delta: float) -> tuple[float, float] | None:
    """PRV's lower and upper bound; None where it is too slow or fails on these settings."""
    if sum(count for _, count in counts) > MOST_PRV_STEPS or len(counts) > 8:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            accountant = PRVAccountant(
                prvs=[
                    PoissonSubsampledGaussianMechanism(
                        sampling_probability=mechanism.sampling_rate,
                        noise_multiplier=mechanism.noise_multiplier,
                    )
                    for mechanism, _ in counts
                ],
                max_self_compositions=[count for _, count in counts],
                eps_error=PRV_EPSILON_ERROR,
                delta_error=delta / 1000,
            )
            lower, _, upper = accountant.compute_epsilon(
                delta=delta, num_self_compositions=[count for _, count in counts]
            )
    except (RuntimeError, ValueError, MemoryError, FloatingPointError, OverflowError):
        # "Discrete mean differs" and the like: its own checks; the other two still bound.
        return None
    return float(lower), float(upper)
