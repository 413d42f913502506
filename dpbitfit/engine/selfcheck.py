"""A model is trained privately only after its gradients have been seen to be right.

The check runs on public probes when a model is attached. It leaves out biases whose hooks
differ from ordinary autograd on one record at a time, and finds the canonical size of a
micro-batch: the smallest from which on a record's row is the same to the bit, whatever its
companions, their number and its place among them. Kernels for few rows sum in another order,
and biases can be chosen that magnify such a difference in rounding to many clipping norms.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dpbitfit.engine.biases import NOT_ITS_GRADIENT, BiasLayout, freeze
from dpbitfit.engine.determinism import deterministic
from dpbitfit.engine.finite import require_finite
from dpbitfit.engine.gradients import PerRecordGradients
from dpbitfit.engine.probing import (
    BIAS_SCALES,
    CANONICAL_ROWS,
    TOLERANCE,
    by_length,
    compared,
    cuts_of_each,
    moved_biases,
    not_its_own,
)
from dpbitfit.engine.screening import (
    Losses,
    Rows,
    by_autograd,
    innermost,
    log_left_out,
    not_per_record,
    unreached,
    watching,
    without,
)
from dpbitfit.errors import ModelError


def check_gradients(
    model: nn.Module,
    layout: BiasLayout,
    losses: Losses,
    lengths: NDArray[np.int64],
    private: bool = True,
    least: int = 1,
) -> tuple[BiasLayout, int]:
    """What of ``layout`` trains, and the canonical size of a micro-batch, from ``least`` rows on.

    ``losses`` takes indices of public probes that are padded to one length, and returns
    their losses [B]; ``lengths`` [n] are the probes' padded lengths, in tokens. Biases that
    cannot be trained soundly are left out (a layer used functionally or whose output does
    not begin with the record, a layer that no record reaches): the same ones on every machine.
    Where no record will be ``private``, rows are not compared among companions, and the
    canonical size is 1.

    Raises ModelError when a weight, loss or gradient is not finite, when a row changes with its
    companions at every size (layers or losses that mix records, a device whose sums depend
    on the batch), when hardly any bias is left, or when what cannot be trained is no bias.
    """
    require_finite(model)
    groups = by_length(lengths)
    with deterministic():
        freeze(model)
        layout = without(layout, not_per_record(model, layout, losses, groups.values()))
        probes = [probe for group in groups.values() for probe in group]
        alone = {probe: by_autograd(model, layout, losses, probe) for probe in probes}
        while True:  # what is left is another graph: check it anew
            with PerRecordGradients(model, layout) as gradients:
                check = _Check(model, layout, losses, groups, gradients)
                canonical, rows = check.run(least) if private else (1, check.alone())
            wrong = _unlike_autograd(layout, rows, alone) | unreached(layout, alone.values())
            if not wrong:
                break
            layout = without(layout, wrong)
    log_left_out(layout)
    return layout, canonical


def _unlike_autograd(
    layout: BiasLayout, rows: Mapping[int, Tensor], alone: Mapping[int, Rows]
) -> dict[str, str]:
    """The parameters of which a probe's row [P] is not what ordinary autograd gives, and why."""
    wrong: dict[str, str] = {}
    for probe, row in rows.items():
        norm = torch.cat([alone[probe][name] for name in layout.names]).norm()
        for name, _, place in layout.slices():
            if not (row[place] - alone[probe][name]).norm() <= TOLERANCE * norm + 1e-12:
                wrong[name] = NOT_ITS_GRADIENT
    return wrong


class _Check:
    def __init__(
        self,
        model: nn.Module,
        layout: BiasLayout,
        losses: Losses,
        groups: Mapping[int, list[int]],
        gradients: PerRecordGradients,
    ) -> None:
        self.model, self.layout, self.losses = model, layout, losses
        self.groups, self.gradients = groups, gradients

    def run(self, least: int) -> tuple[int, dict[int, Tensor]]:
        """The canonical size, from ``least`` on, and each probe's row [P]; ModelError for none."""
        for canonical in (rows for rows in CANONICAL_ROWS if rows >= least):
            rows, reason = self._exact_rows(canonical, 0.0)
            for scale in BIAS_SCALES:
                reason = reason or self._exact_rows(canonical, scale)[1]
            if not reason:
                return canonical, rows
        raise ModelError(reason)

    def alone(self) -> dict[int, Tensor]:
        """Each probe's row [P], of a micro-batch of its own."""
        return {probe: self._rows([probe])[0] for group in self.groups.values() for probe in group}

    def _exact_rows(self, canonical: int, scale: float) -> tuple[dict[int, Tensor], str]:
        """Each probe's row [P] at biases moved by ``scale``; and why that is not one row, if so."""
        rows: dict[int, Tensor] = {}
        with moved_biases(self.model, self.layout, scale):
            for cuts in cuts_of_each(self.groups, canonical, scale):
                seen: dict[int, tuple[list[int], int]] = {}
                for batch, computed in compared(self.model, cuts, self._rows):
                    for place, row in enumerate(computed):
                        probe = batch[place]
                        before = seen.setdefault(probe, (batch, place))
                        if probe not in rows:
                            rows[probe] = row.clone()  # a view would hold all rows of the batch
                        first = rows[probe]
                        if not torch.equal(first, row):
                            mixes = (first - row).norm() > TOLERANCE * first.norm()
                            layer = self._first_layer(before, (batch, place))
                            mixed = bool(mixes) and scale == 0
                            return rows, not_its_own("gradient", self.model, layer, mixed)
        return rows, ""

    def _rows(self, batch: Sequence[int]) -> Tensor:
        """Rows [B, P] by the hooks."""
        return self.gradients.rows(lambda: self.losses(batch), len(batch))

    def _first_layer(self, *places: tuple[list[int], int]) -> str:
        """The first layer whose output for a record differs between two places in micro-batches."""
        first, second = (self._outputs(batch, place) for batch, place in places)
        both = (path for path in first if path in second)
        differ = (path for path in both if not torch.equal(first[path], second[path]))
        return next(differ, "the backward pass")

    def _outputs(self, batch: Sequence[int], place: int) -> dict[str, Tensor]:
        """The output for one record of each layer, in the order of computation."""
        outputs: dict[str, Tensor] = {}

        def keep(path: str, _layer: nn.Module, output: Any) -> None:
            if isinstance(output, Tensor) and len(output) == len(batch):
                outputs.setdefault(path, output[place].nan_to_num())

        with watching(innermost(self.model), keep), torch.no_grad():
            self.losses(batch)
        return outputs
