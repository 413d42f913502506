"""Noise that hides what floating-point noise would show.

Gaussian noise drawn in floating point leaves residues from which the value
below can be read (Mironov 2012; Jin et al. 2022). Here each unit's clipped
gradient is rounded *toward zero* onto an integer grid, which cannot lengthen
it, the sum is exact in integers, and the noise is a discrete Gaussian on the
same grid (Canonne, Kamath, Steinke, "The Discrete Gaussian for Differential
Privacy", NeurIPS 2020) from a cryptographic stream keyed by the operating
system. The grid is at least 2^20 times finer than the noise.

To add a noise: a class with a ``kind`` of its own, and its name in ``Noise``.
"""

import math
import os
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray
from pydantic import Field

from dpbitfit.errors import InputError
from dpbitfit.schema import Key, Part
from dpbitfit.validate import NoiseMultiplier

if TYPE_CHECKING:
    from torch import Tensor

GRID_BITS = 20
# Of the grid: of larger ones 64-bit integers overflow, and what is drawn hides nothing.
LARGEST_SIGMA = 2.0**53
_INVERTED_BITS = 22  # of a scale for which one uniform will do


class RandomSource:
    """An AES-256 counter-mode key stream under a key from the operating system."""

    def __init__(self) -> None:
        cipher = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(bytes(16)))
        self._stream = cipher.encryptor()

    def bytes(self, count: int) -> bytes:
        """``count`` fresh random bytes."""
        return self._stream.update(bytes(count))

    def uint64(self, count: int) -> NDArray[np.uint64]:
        """``count`` fresh random 64-bit integers."""
        return np.frombuffer(self.bytes(8 * count), dtype=np.uint64)

    def uniform(self, count: int) -> NDArray[np.float64]:
        """``count`` multiples of 2^-53 in [0, 1)."""
        return (self.uint64(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


class NoiseSource(Protocol):
    """A grid to sum on, and the noise of one step."""

    step: float  # of the grid, in the gradients' own unit

    def round_toward_zero(self, rows: "Tensor") -> "Tensor":
        """Clipped gradients [B, P], float64, as integers [B, P]; no row gets longer."""

    def release(self, total: NDArray[np.int64]) -> NDArray[np.float64]:
        """The noised sum [P], in the gradients' own unit, of an integer sum [P]."""


class DiscreteGaussian:
    """A discrete Gaussian of standard deviation ``noise_multiplier * sensitivity``."""

    def __init__(
        self,
        sensitivity: float,
        noise_multiplier: float,
        source: RandomSource | None = None,
        grid: float = 0.0,
    ) -> None:
        """``grid`` is that of sums that are on one already, at least as fine as its own."""
        _check(sensitivity, noise_multiplier)
        deviation = sensitivity * noise_multiplier
        # A power of two, so that scaling to and from the grid is exact; a public constant.
        # frexp gives the deviation's own power of two; a logarithm may round up to the next.
        self.step = math.ldexp(1.0, math.frexp(deviation)[1] - 1 - GRID_BITS)
        if grid > self.step:
            raise InputError(f"a noise of {deviation:g} needs a finer grid than {grid:g}")
        self.step = grid or self.step
        self.sigma = deviation / self.step
        if self.sigma > LARGEST_SIGMA:
            raise InputError(f"a noise of {deviation:g} does not fit a grid of {grid:g}")
        self._source = source or RandomSource()

    def round_toward_zero(self, rows: "Tensor") -> "Tensor":
        """Clipped gradients [B, P], float64, as integers [B, P]; no row gets longer."""
        return (rows / self.step).trunc().long()

    def release(self, total: NDArray[np.int64]) -> NDArray[np.float64]:
        """The noised sum [P], in the gradients' own unit, of an integer sum [P]."""
        noised = total + sample_discrete_gaussian(self.sigma, total.size, self._source)
        return noised.astype(np.float64) * self.step


class FastGaussian(DiscreteGaussian):
    """The same grid with noise from a fast generator that is no secret: experiments only."""

    def __init__(self, sensitivity: float, noise_multiplier: float, grid: float = 0.0) -> None:
        super().__init__(sensitivity, noise_multiplier, grid=grid)
        self._generator = np.random.default_rng()

    def release(self, total: NDArray[np.int64]) -> NDArray[np.float64]:
        """The noised sum [P]; the noise can be told from its residue and its generator."""
        return (total + self._generator.normal(0, self.sigma, total.size)) * self.step


class _Gaussian(Part):
    """Gaussian noise of standard deviation ``multiplier`` times the sensitivity."""

    multiplier: Annotated[NoiseMultiplier, Key("noise-multiplier")]


class DiscreteGaussianNoise(_Gaussian):
    """From a cryptographic generator, on a grid: what a site's policy accepts."""

    kind: Literal["discrete-gaussian"] = "discrete-gaussian"

    def source(self, sensitivity: float, grid: float = 0.0) -> NoiseSource:
        """What draws it for sums that one unit moves by at most ``sensitivity`` (L2).

        ``grid`` is that of sums that are whole numbers already.
        """
        return DiscreteGaussian(sensitivity, self.multiplier, grid=grid)


class FastInsecureNoise(_Gaussian):
    """From a fast generator that is no secret: experiments only."""

    kind: Literal["fast-insecure"] = "fast-insecure"

    def source(self, sensitivity: float, grid: float = 0.0) -> NoiseSource:
        """What draws it, as of ``DiscreteGaussianNoise``."""
        return FastGaussian(sensitivity, self.multiplier, grid)


Noise = Annotated[DiscreteGaussianNoise | FastInsecureNoise, Field(discriminator="kind")]


def sample_discrete_gaussian(sigma: float, count: int, source: RandomSource) -> NDArray[np.int64]:
    """``count`` integers x with probability proportional to exp(-x^2 / (2 sigma^2)).

    Algorithm 3 of Canonne, Kamath and Steinke: a discrete Laplace of scale
    t = floor(sigma) + 1, accepted with probability
    exp(-(|x| - sigma^2/t)^2 / (2 sigma^2)).
    """
    scale = math.floor(sigma) + 1
    accepted = np.empty(0, dtype=np.int64)
    while accepted.size < count:
        wanted = int((count - accepted.size) * 1.5) + 64  # two in three are accepted
        proposed = _discrete_laplace(scale, wanted, source)
        offset = np.abs(proposed) - sigma * sigma / scale
        keep = source.uniform(wanted) < np.exp(-offset * offset / (2 * sigma * sigma))
        accepted = np.concatenate([accepted, proposed[keep]])
    return accepted[:count]


def _discrete_laplace(scale: int, count: int, source: RandomSource) -> NDArray[np.int64]:
    """Integers x with probability proportional to exp(-|x| / scale)."""
    magnitude = _geometric(scale, count, source)
    negative = (source.uint64(count) & np.uint64(1)).astype(bool)
    values = np.where(negative, -magnitude, magnitude)
    # Zero has been given twice its probability, once for each sign: drop it as "minus zero".
    again = negative & (magnitude == 0)
    if again.any():
        values[again] = _discrete_laplace(scale, int(again.sum()), source)
    drawn: NDArray[np.int64] = values
    return drawn


def _geometric(scale: int, count: int, source: RandomSource) -> NDArray[np.int64]:
    """Whole numbers m from 0 with probability proportional to exp(-m / scale).

    By inversion: of one uniform where the scale has few bits. The 53 bits of one miss whole
    numbers of a large scale, and which are missed tells of the sum. There a block and the
    place in it, which are independent, have a uniform each.
    """
    block = 1 << max(0, scale.bit_length() - _INVERTED_BITS)
    blocks: NDArray[np.int64] = np.floor(
        -(scale / block) * np.log(1.0 - source.uniform(count))
    ).astype(np.int64)
    if block == 1:
        return blocks
    reached = source.uniform(count) * math.expm1(-block / scale)
    places = np.floor(-scale * np.log1p(reached)).astype(np.int64)
    drawn: NDArray[np.int64] = blocks * block + np.minimum(places, block - 1)
    return drawn


def _check(sensitivity: float, noise_multiplier: float) -> None:
    for name, value in (("sensitivity", sensitivity), ("noise multiplier", noise_multiplier)):
        if not (math.isfinite(value) and 0 < value <= 1e6):
            raise InputError(f"the {name} must be above 0 and at most 1,000,000, not {value!r}")
