"""Directional derivatives from losses alone, as of DPZero (Zhang et al. 2023, arXiv 2310.09639).

    v_ik = (loss_i(theta + lambda z_k) - loss_i(theta - lambda z_k)) / (2 lambda)

Forward passes only: no activation is kept, and a layer need not have a gradient of one record.
The K derivatives of a record are one row ``v_i / sqrt(K)``, whose norm is about that of the
record's gradient, whatever K is; and the row is clipped as a whole, so that a step is one
Gaussian mechanism. Clipping each derivative by itself would be K of them.

*Formal guarantee*: row i depends on record i, the biases and public directions alone, to the
bit, if the losses do. ``losscheck.check_losses`` tests that.
"""

import math
from collections.abc import Callable
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dpbitfit.engine.biases import BiasLayout, freeze, read_biases, write_biases
from dpbitfit.engine.directions import Directions
from dpbitfit.engine.finite import FiniteRows
from dpbitfit.engine.split import DevicePart
from dpbitfit.errors import ModelError


class LossDifferences:
    """Makes a row of K directional derivatives of each record.

    Use::

        with LossDifferences(model, layout, directions, 64, 1e-3) as differences:
            differences.begin(step)
            rows = differences.rows(lambda: losses_of(batch), len(batch))  # [B, 64]
    """

    def __init__(
        self,
        model: nn.Module,
        layout: BiasLayout,
        directions: Directions,
        count: int,
        smoothing: float,
    ) -> None:
        freeze(model)
        self._model, self._layout = model, layout
        self._directions, self._count = directions, count
        self._smoothing = np.float32(smoothing)
        self._finite = FiniteRows()
        self.begin(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._finite.warn()

    @property
    def width(self) -> int:
        """Of a row: K, one value for each direction."""
        return self._count

    @property
    def parts(self) -> list[DevicePart]:
        """A row lies on one device, where the model reads."""
        device = next(self._model.parameters()).device
        return [DevicePart(device, {"derivatives": self._count}, np.arange(self._count))]

    def begin(self, step: int) -> None:
        """Look about the biases as they are, along the directions of this step of the phase."""
        self._step = step
        self._center = read_biases(self._model, self._layout)

    def rows(self, losses: Callable[[], Tensor], count: int) -> Tensor:
        """The rows [B, K], float32, of ``count`` records; 2 K forward passes.

        A row that is not finite is zeroed: a unit may always contribute nothing. Raises
        ModelError when the losses are not one for each record.
        """
        device = next(self._model.parameters()).device
        rows = torch.empty((count, self._count), dtype=torch.float32, device=device)
        try:
            for number in range(self._count):
                signs = self._directions.signs(self._step, number, self._layout.size)
                away = self._smoothing * signs.astype(np.float32)
                ahead = self._losses(losses, count, self._center + away)
                rows[:, number] = ahead - self._losses(losses, count, self._center - away)
        finally:
            write_biases(self._model, self._layout, self._center)
        derivatives = rows / (2 * float(self._smoothing) * math.sqrt(self._count))
        return self._finite.only(derivatives)[0]

    def rows_in_parts(self, losses: Callable[[], Tensor], count: int) -> list[Tensor]:
        """The same."""
        return [self.rows(losses, count)]

    def gradient(self, released: NDArray[np.float64]) -> NDArray[np.float64]:
        """The gradient [P] that a noised, averaged row [K] stands for, as both sides take it."""
        return self._directions.gradient(self._step, released, self._layout.size)

    def _losses(
        self, losses: Callable[[], Tensor], count: int, biases: NDArray[np.float32]
    ) -> Tensor:
        """The losses [B], in float32: in fewer bits their difference would vanish."""
        write_biases(self._model, self._layout, biases)
        with torch.no_grad():
            values = losses()
        if values.shape != (count,):
            raise ModelError("private training needs one loss for each record, not their mean")
        return values.float()
