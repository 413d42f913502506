"""From mechanisms and counts to epsilon: the smallest valid upper bound, and its name.

Three accountants, all upper bounds for adding or removing one unit:

- PRV (Gopi, Lee, Wutschitz, NeurIPS 2021), which also gives a lower bound;
- PLD (Doroshenko et al., PoPETs 2022), the tightest and flattest in the steps;
- RDP (Mironov 2017; Mironov, Talwar, Zhang 2019), which never fails.

The smallest is published. When PRV's *lower* bound lies above PLD's upper
bound, one of them is wrong and nothing is published.

The packages behind them take seconds to import. They come with the first figure, because
most processes count steps and compute none.
"""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import Any

from dpbitfit.accounting.mechanism import Counts, Mechanism, check_delta, checked
from dpbitfit.accounting.renyi import RDP_ORDERS, composed
from dpbitfit.errors import AccountingError

# Raised where the same packages may give another figure: those that are stored are made again.
METHOD = 3
# Below this delta the discretised accountants lose their digits; RDP keeps its own.
SMALLEST_DISCRETISED_DELTA = 1e-10
# They compose by powers of a Fourier transform, each of which moves delta by a rounding error: up
# to 0.2 * 2^-52 a step, against the exact figure of the Gaussian mechanism.
ROUNDING = 2.0**-50
# With more steps PLD takes minutes, or does not end.
MOST_PLD_STEPS = 10**6
# PLD is sound on any grid, and its time is that of the cells of one step's losses and of their sum.
FINE_CELL, FINEST_CELL, STEP_CELLS, SUM_CELLS = 1e-4, 1e-6, 1e4, 1e6
LARGEST_PLD_EPSILON = 1e5  # by RDP, which may be several times as large
LARGEST_FINE_EPSILON = 60.0  # by RDP: above it the finest grid, and PRV, take minutes
# prv-accountant's time and memory grow with the steps and with epsilon over its error: 1e5 steps
# took 100 s and 2.5 GB.
MOST_PRV_STEPS = 20_000
PRV_EPSILON_ERROR, PRV_RELATIVE_ERROR = 0.01, 0.002


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
    bounds = [_rdp_delta(counts, epsilon)]
    rdp = _rdp(counts, SMALLEST_DISCRETISED_DELTA)
    if _steps(counts) <= MOST_PLD_STEPS and rdp <= LARGEST_PLD_EPSILON:
        pld = _pld(counts, rdp, fine=True).get_delta_for_epsilon(epsilon)
        bounds.append(pld + _steps(counts) * ROUNDING)
    return float(min(bounds))


def unchecked_epsilon(counts: Counts, delta: float) -> float:
    """The smaller of PLD's, on a coarse grid, and RDP's bounds, for searches.

    A figure that is published comes from ``epsilon``, which compares them with PRV's.
    """
    return min(_uppers(counts, delta, fine=False).values())


@lru_cache(maxsize=4096)
def _epsilon(counts: Counts, delta: float) -> Bound:
    if not counts:
        return Bound(0.0, delta, "PLD", version_of("PLD"), 0.0)
    uppers = dict(_uppers(counts, delta, fine=True))
    lower = 0.0
    bracket = _prv(counts, delta, uppers["RDP"])
    if bracket is not None:
        lower, uppers["PRV"] = bracket
    valid = {name: value for name, value in uppers.items() if math.isfinite(value)}
    if not valid:
        raise AccountingError(
            "no accountant bounds this composition; use fewer steps or more noise"
        )
    name = min(valid, key=lambda key: valid[key])
    if lower > min(valid.values()):
        composition = ", ".join(f"{steps} steps of {mechanism}" for mechanism, steps in counts)
        raise AccountingError(
            f"the accountants contradict each other on {composition} at delta {delta:g}: change "
            "the noise or the number of steps a little, and report this"
        )
    return Bound(max(valid[name], 0.0), delta, name, version_of(name), max(lower, 0.0))


@lru_cache
def version_of(accountant: str) -> str:
    """The package and version behind an accountant's name."""
    package = "prv-accountant" if accountant == "PRV" else "dp-accounting"
    return f"{package} {version(package)}"


@lru_cache(maxsize=256)
def _uppers(counts: Counts, delta: float, fine: bool) -> Mapping[str, float]:
    """RDP's upper bound by its name, and PLD's where it is sound and takes seconds."""
    rdp = _rdp(counts, delta)
    uppers = {"RDP": rdp}
    rounding = _steps(counts) * ROUNDING
    sound = delta >= SMALLEST_DISCRETISED_DELTA and rounding <= delta / 10
    if sound and _steps(counts) <= MOST_PLD_STEPS and rdp <= LARGEST_PLD_EPSILON:
        uppers["PLD"] = float(_pld(counts, rdp, fine).get_epsilon_for_delta(delta - rounding))
    return uppers


def _pld(counts: Counts, rdp: float, fine: bool) -> Any:
    """The losses of a composition that costs at most ``rdp``; on the ``fine`` grid where it can."""
    from dp_accounting.pld import privacy_loss_distribution as losses

    fine = fine and rdp <= LARGEST_FINE_EPSILON
    cell = _fine_cell(counts) if fine else _cell(counts, rdp)
    total = losses.identity(value_discretization_interval=cell)
    for mechanism, count in counts:
        total = total.compose(_step_losses(mechanism, cell).self_compose(count))
    return total


# Half of a figure's time, and a round of a run adds nothing but steps. Each takes up to 14 MB.
@lru_cache(maxsize=8)
def _step_losses(mechanism: Mechanism, cell: float) -> Any:
    """The privacy losses of one step, for a unit that is removed and for one that is added."""
    from dp_accounting.pld import privacy_loss_distribution as losses

    return losses.from_gaussian_mechanism(
        standard_deviation=mechanism.noise_multiplier,
        value_discretization_interval=cell,
        sampling_prob=mechanism.sampling_rate,
    )


def _cell(counts: Counts, rdp: float) -> float:
    """A cell of PLD's grid with which it takes a second, and epsilon grows by 0.02 % or so."""
    widest = max(_width(mechanism) for mechanism, _ in counts)
    deviation = math.sqrt(min(_variance(mechanism) for mechanism, _ in counts))
    return max(_fine_cell(counts), min(widest / STEP_CELLS, 0.05 * deviation), rdp / SUM_CELLS)


def _fine_cell(counts: Counts) -> float:
    """A cell with which epsilon grows by 0.5 % at most, where that takes seconds."""
    widest = max(_width(mechanism) for mechanism, _ in counts)
    variance = sum(n * _variance(mechanism) for mechanism, n in counts) / _steps(counts)
    # A cell h adds h^2/6 to the variance of a step's loss.
    return min(FINE_CELL, max(FINEST_CELL, widest / (100 * STEP_CELLS), 0.2 * math.sqrt(variance)))


def _width(mechanism: Mechanism) -> float:
    """Of one step's losses, to 10 sigma: beyond that is no cell."""
    sigma = mechanism.noise_multiplier
    return (1 + 20 * sigma) / (2 * sigma**2)


def _variance(mechanism: Mechanism) -> float:
    """Of one step's loss, about."""
    growth = math.expm1(min(1 / mechanism.noise_multiplier**2, 700.0))
    return mechanism.sampling_rate**2 * growth


def _steps(counts: Counts) -> int:
    return sum(count for _, count in counts)


def _rdp(counts: Counts, delta: float) -> float:
    from dp_accounting.rdp.rdp_privacy_accountant import compute_epsilon

    return float(compute_epsilon(RDP_ORDERS, composed(counts), delta)[0])


def _rdp_delta(counts: Counts, epsilon: float) -> float:
    from dp_accounting.rdp.rdp_privacy_accountant import compute_delta

    return float(compute_delta(RDP_ORDERS, composed(counts), epsilon)[0])


def _prv(counts: Counts, delta: float, rdp: float) -> tuple[float, float] | None:
    """PRV's lower and upper bound; None where it is too slow or fails on these settings."""
    delta_error = delta / 1000
    if delta < SMALLEST_DISCRETISED_DELTA or _steps(counts) * ROUNDING > delta_error:
        return None
    if _steps(counts) > MOST_PRV_STEPS or len(counts) > 8 or rdp > LARGEST_FINE_EPSILON:
        return None
    from prv_accountant import PoissonSubsampledGaussianMechanism, PRVAccountant

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
                eps_error=max(PRV_EPSILON_ERROR, PRV_RELATIVE_ERROR * rdp),
                delta_error=delta_error,
            )
            lower, _, upper = accountant.compute_epsilon(
                delta=delta, num_self_compositions=[count for _, count in counts]
            )
    except (RuntimeError, ValueError, MemoryError, FloatingPointError, OverflowError):
        # "Discrete mean differs" and the like: its own checks; the other two still bound.
        return None
    return float(lower), float(upper)
