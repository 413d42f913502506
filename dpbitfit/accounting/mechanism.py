"""Noisy steps and their counts: what is composed, whichever accountant does it."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dpbitfit.errors import AccountingError


@dataclass(frozen=True, order=True)
class Mechanism:
    """One noisy step: the Gaussian mechanism on a Poisson sample.

    ``noise_multiplier`` is the noise's standard deviation over the sensitivity: the
    L2 norm by which one unit moves the sum at most. ``sampling_rate`` is each unit's
    probability of taking part.
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
