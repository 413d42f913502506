"""Clipping: what bounds one unit's influence on the sum.

*Formal guarantee*: every row that ``clip`` returns has an L2 norm of at most the
clipper's ``sensitivity``, so that adding or removing one unit moves the sum of rows
by at most that. Computed in float64; a few units in the last place are given away so
that rounding cannot pass the bound.

To add a clipper: a class here, with a ``function`` of its own, and its name in ``Clipper``.
"""

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from dpbitfit.schema import Key, Part
from dpbitfit.validate import ClippingNorm

STABILITY = 0.01  # gamma of automatic clipping, Bu et al. 2022 (arXiv 2206.07136), section 4
_SAFETY = 1 - 1e-12


class _Flat(Part):
    """All parameters of a row are one group, clipped to one L2 norm."""

    grouping: Literal["all"] = "all"
    norm: Annotated[ClippingNorm, Key("clipping-norm")] = 8.0

    @property
    def sensitivity(self) -> float:
        """The largest L2 norm of a clipped row."""
        return self.norm

    def clip(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """Gradient rows [B, P], clipped, in float64.

        A row of zeros stays zero, and a row that is not finite becomes zero.
        """
        exact = rows.astype(np.float64)
        exact[~np.isfinite(exact).all(axis=1)] = 0.0
        lengths = np.linalg.norm(exact, axis=1, keepdims=True)  # [B, 1]
        clipped: NDArray[np.float64] = exact * (self._factors(lengths) * _SAFETY)
        return clipped

    def _factors(self, lengths: NDArray[np.float64]) -> NDArray[np.float64]:
        raise NotImplementedError


class AbadiClipping(_Flat):
    """g * min(1, C / |g|) (Abadi et al. 2016, algorithm 1)."""

    function: Literal["abadi"] = "abadi"

    def _factors(self, lengths: NDArray[np.float64]) -> NDArray[np.float64]:
        factors: NDArray[np.float64] = self.norm / np.maximum(lengths, self.norm)
        return factors


class AutomaticClipping(_Flat):
    """g * C / (|g| + 0.01) (Bu et al. 2022, arXiv 2206.07136)."""

    function: Literal["automatic"] = "automatic"

    def _factors(self, lengths: NDArray[np.float64]) -> NDArray[np.float64]:
        factors: NDArray[np.float64] = self.norm / (lengths + STABILITY)
        return factors


Clipper = Annotated[AbadiClipping | AutomaticClipping, Field(discriminator="function")]
