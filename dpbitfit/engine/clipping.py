"""Clipping: what bounds one unit's influence on the sum.

*Formal guarantee*: every row that ``clip`` returns has an L2 norm of at most the
clipper's ``sensitivity``, so that adding or removing one unit moves the sum of rows
by at most that. Computed in float64, where the rows lie; a few units in the last place
are given away so that rounding cannot pass the bound. A clipped row is a function of that row
alone, to the bit and on every device: there is no sum whose order a kernel chooses.

To add a clipper: a class here, with a ``function`` of its own, and its name in ``Clipper``.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from dpbitfit.engine.groupwise import AdaptiveClipping, GroupwiseClipping
from dpbitfit.engine.row_norms import SAFETY, exact_rows, row_norms
from dpbitfit.schema import Key, Part, variants_of
from dpbitfit.validate import ClippingNorm

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dpbitfit.engine.biases import BiasLayout
    from dpbitfit.engine.split import DevicePart

STABILITY = 0.01  # gamma of automatic clipping, Bu et al. 2022 (arXiv 2206.07136), section 4

Vector = NDArray[np.float64]


class AttachedClipper(Protocol):
    """A clipper at work on rows of one layout."""

    @property
    def sensitivity(self) -> float:
        """The largest L2 norm of a row that ``clip`` returns; the same in all steps."""

    @property
    def appended(self) -> int:
        """How many values ``clip`` appends to a row."""

    @property
    def norms(self) -> Vector | None:
        """What the next round has to know of released values, or None."""

    def clip(self, rows: "Tensor") -> "Tensor":
        """Rows [B, D], float32, as they are summed [B, D + appended], float64."""

    def of_parts(
        self, parts: "Sequence[DevicePart]"
    ) -> "Sequence[tuple[AttachedClipper, NDArray[np.int64]]] | None":
        """For each device's part of a row: what clips it there, and where its sum [p + appended]
        lies in that of whole rows; None where only a whole row can be clipped.
        """

    def read(self, released: Vector) -> "tuple[Vector, AttachedClipper]":
        """The row [D] that a noised, averaged one stands for, and the next step's clipper."""


class _Flat(Part):
    """All parameters of a row are one group, clipped to one L2 norm."""

    grouping: Literal["all"] = "all"
    norm: Annotated[ClippingNorm, Key("clipping-norm")] = 8.0

    appended: ClassVar[int] = 0
    norms: ClassVar[None] = None

    @property
    def sensitivity(self) -> float:
        """The largest L2 norm of a clipped row."""
        return self.norm

    @property
    def largest(self) -> float:
        """A bound on a clipped gradient's norm, and on a value's noise over the multiplier."""
        return self.sensitivity

    @property
    def words(self) -> str:
        """What it does, in a few words."""
        return f"clipped to {self.norm:g}"

    def attach(self, model: "nn.Module", layout: "BiasLayout", norms: Vector | None = None) -> Self:
        """At work on rows of any layout: it needs to know of none."""
        return self

    def of_parts(self, parts: "Sequence[DevicePart]") -> None:
        """A row has one norm, of all its parts."""

    def read(self, released: Vector) -> tuple[Vector, Self]:
        """A noised, averaged row is what it is, and every step is clipped alike."""
        return released, self

    def clip(self, rows: "Tensor") -> "Tensor":
        """Gradient rows [B, P], float32, clipped, in float64.

        A row of zeros stays zero, and a row that is not finite becomes zero.
        """
        exact = exact_rows(rows)
        return exact * (self._factors(row_norms(exact)) * SAFETY)

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


FlatClipper = Annotated[AbadiClipping | AutomaticClipping, Field(discriminator="function")]
Clipper = Annotated[
    AbadiClipping | AutomaticClipping | GroupwiseClipping | AdaptiveClipping,
    Field(discriminator="function"),
]
CLIPPINGS = tuple(variants_of(Clipper))
