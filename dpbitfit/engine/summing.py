"""The sum of units' clipped rows: exact, in integers, on the device where the rows lie.

*Formal guarantee*: what a unit adds is its own clipped row on the noise's grid, a function of
its records' rows alone, to the bit and on every device. Norms are summed in a fixed order
(``clipping``), and integers add up to the same in any. No row leaves the device; the sum does.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpbitfit.engine.clipping import AttachedClipper
from dpbitfit.engine.noise import NoiseSource

# Are clipped at once, each value in some 40 bytes: of a few rows on a CPU, whose caches hold them,
# of many on a GPU, which is idle with few.
_ROWS_AT_ONCE, _GPU_VALUES = 16, 1 << 23


class UnitSum:
    """Adds up rows [B, D] as they come; a unit's records are summed before they are clipped.

    ``units`` are the records of every unit, ``sample`` the units that count.
    """

    def __init__(
        self,
        units: Sequence[NDArray[np.int64]],
        sample: NDArray[np.int64],
        clipper: AttachedClipper,
        noise: NoiseSource,
        total: Tensor,
    ) -> None:
        """``total`` [D], int64 zeros, is where the sum is kept."""
        self._clipper, self._noise, self._total = clipper, noise, total
        self._waiting = {int(unit): len(units[unit]) for unit in sample}
        self._owner = {int(record): int(unit) for unit in sample for record in units[unit]}
        self._partial: dict[int, Tensor] = {}  # rows [D] of units of which records are to come

    @property
    def records(self) -> list[int]:
        """The records of the units that count, ascending."""
        return sorted(self._owner)

    def ready(self, batch: Sequence[int], rows: Tensor) -> Callable[[], None]:
        """What counts the rows [B, D], float32, of some records, and cannot fail any more."""
        waiting: dict[int, int] = {}
        partial: dict[int, Tensor] = {}
        whole = []  # places of rows that are their unit's first and last
        for place, record in enumerate(batch):
            unit = self._owner[record]
            waiting[unit] = waiting.get(unit, self._waiting[unit]) - 1
            before = partial.get(unit, self._partial.get(unit))
            if before is None and not waiting[unit]:
                whole.append(place)
            else:
                # Not a view, which would hold all rows in memory.
                partial[unit] = rows[place].clone() if before is None else before + rows[place]
        complete = [unit for unit in partial if not waiting[unit]]
        added = self._on_grid(rows if len(whole) == len(rows) else rows[whole])
        if complete:
            added += self._on_grid(torch.stack([partial[unit] for unit in complete]))

        def count() -> None:
            self._total.add_(added)
            self._waiting.update(waiting)
            self._partial.update(partial)
            for unit in complete:
                del self._partial[unit]

        return count

    def total(self) -> NDArray[np.int64]:
        """The sum [D]: all that leaves the device."""
        total: NDArray[np.int64] = self._total.cpu().numpy()
        return total

    def _on_grid(self, rows: Tensor) -> Tensor:
        """The sum [D], int64, of units' rows [U, D], clipped and rounded."""
        total = torch.zeros_like(self._total)
        many = _ROWS_AT_ONCE if rows.device.type == "cpu" else _GPU_VALUES // rows.shape[1]
        for some in torch.split(rows, max(many, _ROWS_AT_ONCE)):
            clipped = self._clipper.clip(some)
            total += self._noise.round_toward_zero(clipped).sum(dim=0)
        return total
