"""Clipping: what bounds one unit's influence on the sum.

*Formal guarantee*: every row that ``clip`` returns has an L2 norm of at most the
clipper's ``sensitivity``, so that adding or removing one unit moves the sum of rows
by at most that. Computed in float64, where the rows lie; a few units in the last place
are given away so that rounding cannot pass the bound. A clipped row is a function of that row
alone, to the bit and on every device: there is no sum whose order a kernel chooses.

To add a clipper: a class here, with a ``function`` of its own, and its name in ``Clipper``.
"""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from dpbitfit.schema import Key, Part
from dpbitfit.validate import ClippingNorm

if TYPE_CHECKING:
    from torch import Tensor

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

    def clip(self, rows: "Tensor") -> "Tensor":
        """Gradient rows [B, P], float32, clipped, in float64.

        A row of zeros stays zero, and a row that is not finite becomes zero.
        """
        finite = rows.isfinite().all(dim=1, keepdim=True)  # [B, 1]
        exact = rows.double().where(finite, 0.0)
        return exact * (self._factors(_norms(exact)) * _SAFETY)

    def _factors(self, norms: "Tensor") -> "Tensor":
        raise NotImplementedError


class AbadiClipping(_Flat):
    """g * min(1, C / |g|) (Abadi et al. 2016, algorithm 1)."""

    function: Literal["abadi"] = "abadi"

    def _factors(self, norms: "Tensor") -> "Tensor":
        return norms.new_tensor(self.norm) / norms.clamp(min=self.norm)


class AutomaticClipping(_Flat):
    """g * C / (|g| + 0.01) (Bu et al. 2022, arXiv 2206.07136)."""

    function: Literal["automatic"] = "automatic"

    def _factors(self, norms: "Tensor") -> "Tensor":
        return norms.new_tensor(self.norm) / (norms + STABILITY)


Clipper = Annotated[AbadiClipping | AutomaticClipping, Field(discriminator="function")]


def _norms(rows: "Tensor") -> "Tensor":
    """The L2 norm [B, 1] of each row [B, P], float64.

    Squares are added half to half: a device's own sum has an order that follows from how many
    rows there are, and so the norm of one would depend on the others in its last bits.
    """
    squares = rows * rows
    while (width := squares.shape[1]) > 1:
        half = (width + 1) // 2
        squares[:, : width - half] += squares[:, half:]
        squares = squares[:, :half]
    return squares.sqrt()
