"""Which gradient is estimated from the losses of records; torch comes when one is attached.

To add an estimator: a class here, with a ``kind`` of its own, and its name in ``Estimator``.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from dpbitfit.engine.directions import Directions
from dpbitfit.errors import InputError
from dpbitfit.schema import Part
from dpbitfit.validate import DirectionCount, real

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dpbitfit.engine.biases import BiasLayout
    from dpbitfit.engine.split import DevicePart


class AttachedEstimator(Protocol):
    """An estimator at work on a model with P trained parameters.

    *Formal guarantee that each gives*: row i depends on record i, the model and public
    numbers alone, to the bit, where the losses do (see ``batches``).
    """

    @property
    def width(self) -> int:
        """D, of a row."""

    @property
    def parts(self) -> "Sequence[DevicePart]":
        """Where a row's values lie, of a model on several devices; D in all."""

    def begin(self, step: int) -> None:
        """Begin a step of the phase, from 0, at the biases that the model has."""

    def rows_in_parts(self, losses: "Callable[[], Tensor]", count: int) -> "Sequence[Tensor]":
        """Rows [B, D], float32, of the ``count`` records whose losses [B] a call computes.

        Each part's values [B, p] are on its device.
        """

    def gradient(self, released: NDArray[np.float64]) -> NDArray[np.float64]:
        """The gradient [P] that a noised, averaged row [D] stands for."""


class BiasGradients(Part):
    """The exact per-record gradient of the biases (Bu et al. 2022, arXiv 2210.00036): D = P."""

    kind: Literal["bias-gradients"] = "bias-gradients"

    def attach(
        self, model: "nn.Module", layout: "BiasLayout", directions: Directions | None = None
    ) -> AbstractContextManager[AttachedEstimator]:
        """The estimator at work on ``model``, which it freezes, until the block ends."""
        from dpbitfit.engine.gradients import PerRecordGradients

        return PerRecordGradients(model, layout)


class DirectionalDerivatives(Part):
    """How the losses change along public random directions (``zero_order``): D = K.

    Directions have an L2 norm of sqrt(P), so that each bias moves by ``smoothing``.
    """

    kind: Literal["directional-derivatives"] = "directional-derivatives"
    directions: DirectionCount = 64
    smoothing: Annotated[
        float, real(1e-5, 0.1, "How far dp-zero moves each bias to see the loss change.")
    ] = 1e-3

    def attach(
        self, model: "nn.Module", layout: "BiasLayout", directions: Directions | None = None
    ) -> AbstractContextManager[AttachedEstimator]:
        """The estimator at work on ``model``, which it freezes, until the block ends.

        Raises InputError without ``directions``.
        """
        from dpbitfit.engine.zero_order import LossDifferences

        if directions is None:
            raise InputError("dp-zero needs the public directions of a run and a site")
        return LossDifferences(model, layout, directions, self.directions, self.smoothing)


Estimator = BiasGradients | DirectionalDerivatives
