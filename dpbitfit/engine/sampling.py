"""Poisson sampling of units: what is accounted is an independent coin for every unit at every step.

Shuffling into batches of a fixed size is not that, and costs more privacy than
Poisson accounting says (Chua et al., ICML 2024).
"""

import math

import numpy as np
from numpy.typing import NDArray

from dpbitfit.engine.noise import RandomSource
from dpbitfit.errors import InputError


class PoissonSampler:
    """Includes each of ``units`` units with probability ``rate``, independently.

    The coin is a 53-bit uniform from a cryptographic source. A draw may be
    empty; the step that uses it is a noisy step all the same.
    """

    def __init__(self, units: int, rate: float, source: RandomSource) -> None:
        if not (math.isfinite(rate) and 0 < rate <= 1):
            raise InputError(f"the sampling rate must be in (0, 1], not {rate!r}")
        self.units = units
        self.rate = rate
        self._source = source

    def draw(self) -> NDArray[np.int64]:
        """The indices of the units included in one step, ascending."""
        return np.flatnonzero(self._source.uniform(self.units) < self.rate)
