"""A model is trained privately only after its gradients have been seen to be right.

The check runs on public probes when a model is attached. It leaves out biases whose hooks
differ from ordinary autograd on one record at a time, and finds the canonical size of a
micro-batch: the smallest from which on a record's row is the same to the bit, whatever its
companions, their number and its place among them. Kernels for few rows sum in another order,
and biases can be chosen that magnify such a difference in rounding to many clipping norms.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dpbitfit.engine.biases import (
    BLOCKED,
    NOT_ITS_GRADIENT,
    UNREACHED,
    BiasLayout,
    freeze,
    require_precision,
)
from dpbitfit.engine.determinism import deterministic
from dpbitfit.engine.finite import require_finite
from dpbitfit.engine.gradients import PerRecordGradients
from dpbitfit.engine.memory import smallest
from dpbitfit.engine.probing import (
    BIAS_SCALES,
    CANONICAL_ROWS,
    TOLERANCE,
    Cuts,
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
    watching,
    without,
)
from dpbitfit.errors import ModelError

_LITTLE, _MORE, *_ = BIAS_SCALES
# Relative to the norm of a whole row: ordinary autograd adds the same values up in another order,
# and where they cancel, what is left has the rounding of what was added.
_ROUNDING = 16 * torch.finfo(torch.float32).eps


def check_gradients(
    model: nn.Module,
    layout: BiasLayout,
    losses: Losses,
    lengths: NDArray[np.int64],
    private: bool = True,
    least: int = 1,
    most_tokens: int | None = None,
) -> tuple[BiasLayout, int]:
    """What of ``layout`` trains, and the canonical size of a micro-batch, from ``least`` rows on.

    ``losses`` takes indices of public probes that are padded to one length, and returns
    their losses [B]; ``lengths`` [n] are the probes' padded lengths, in tokens. Biases that
    cannot be trained soundly are left out (a layer used functionally or whose output does
    not begin with the record, a layer that no record reaches): the same ones on every machine.
    Where no record will be ``private``, rows are not compared among companions, and the
    canonical size is 1. Micro-batches of more than ``most_tokens`` are only computed where smaller
    ones differ.

    It sees what the probes show, and no more: records that are only mixed where one is unlike
    all probes are not seen to be.

    Raises ModelError when a weight or gradient is not finite, when what trains is in half
    precision, when a row or loss changes with its companions at every size (layers or losses that
    mix records, a device whose sums depend on the batch), when hardly any bias is left, when
    what cannot be trained is no bias, or when the device's memory is too small.
    """
    require_finite(model)
    require_precision(model, layout)
    groups = by_length(lengths)
    with deterministic(), smallest(model):
        freeze(model)
        layout = without(layout, not_per_record(model, layout, losses, groups.values()))
        while True:  # what is left is another graph: check it anew
            with PerRecordGradients(model, layout) as gradients:
                check = _Check(model, layout, losses, groups, gradients, most_tokens)
                canonical = check.run(least) if private else 1
                wrong = check.unlike_autograd(canonical)
            if not wrong:
                break
            layout = without(layout, wrong)
    log_left_out(layout)
    return layout, canonical


@dataclass(frozen=True)
class _Met:
    """A probe in a micro-batch: its row [P] and loss, and the largest norm and loss there."""

    batch: Sequence[int]
    place: int
    row: Tensor
    loss: Tensor
    largest_row: Tensor
    largest_loss: Tensor


def _unlike(layout: BiasLayout, row: Tensor, expected: Rows) -> Iterator[str]:
    """The parameters of which a row [P] is not the expected gradient, but for rounding."""
    everything = math.hypot(*(gradient.norm() for gradient in expected.values()))
    for name, _, place in layout.slices():
        wanted = expected.get(name, torch.zeros_like(row[place]))
        most = TOLERANCE * wanted.norm() + _ROUNDING * everything
        if not (row[place] - wanted).norm() <= most + 1e-12:
            yield name


def _mixed(first: _Met, now: _Met, scale: float) -> bool:
    """Whether rows differ by more than rounding: of which something is left, and little differs."""
    if scale == 0 and (now.row - first.row).norm() > TOLERANCE * now.largest_row:
        return True
    return scale <= _MORE and bool(now.row.any() != first.row.any())


class _Check:
    def __init__(
        self,
        model: nn.Module,
        layout: BiasLayout,
        losses: Losses,
        groups: Mapping[int, list[int]],
        gradients: PerRecordGradients,
        most_tokens: int | None,
    ) -> None:
        self.model, self.layout, self.losses = model, layout, losses
        self.groups, self.gradients, self.most_tokens = groups, gradients, most_tokens

    def run(self, least: int) -> int:
        """The canonical size, from ``least`` on; ModelError where there is none."""
        mixes = reason = ""
        for canonical in (rows for rows in CANONICAL_ROWS if rows >= least):
            for scale in (0.0, *BIAS_SCALES):
                reason, mixed = self._not_one_row(canonical, scale)
                if reason:
                    break
            else:
                return canonical
            mixes = mixes or reason * mixed  # of many rows little may be seen of it
        raise ModelError(mixes or reason)

    def unlike_autograd(self, rows: int) -> dict[str, str]:
        """The parameters of which a probe's row is not what ordinary autograd gives, and why.

        In micro-batches of ``rows`` records, both in the same ones, so that they are rounded
        alike: a parameter is compared by its own norm, however large others are. At the model's
        own values, and a little away from them: beneath a head of zeros, which trains, there
        is nothing to compare at first.
        """
        wrong: dict[str, str] = {}
        in_graph: set[str] = set()
        reached: set[str] = set()
        for scale in (0.0, _LITTLE):
            with moved_biases(self.model, self.layout, scale):
                for batch in self._each_first(rows):
                    expected = by_autograd(self.model, self.layout, self.losses, batch)
                    in_graph |= expected.keys()
                    if not all(gradient.isfinite().all() for gradient in expected.values()):
                        if scale:
                            continue  # such a row counts nothing
                        raise ModelError(
                            "a loss or gradient is not finite: the model's weights are damaged"
                        )
                    _, computed = self._compute(batch)
                    reached |= {name for name, gradient in expected.items() if gradient.any()}
                    for name in _unlike(self.layout, computed[0], expected):
                        wrong[name] = NOT_ITS_GRADIENT
        for name in self.layout.names:
            if name not in reached:
                wrong[name] = BLOCKED if name in in_graph else UNREACHED
        return wrong

    def _each_first(self, rows: int) -> Iterator[list[int]]:
        """Micro-batches of ``rows`` probes of one length; each probe comes first in one."""
        for group in self.groups.values():
            for start in range(len(group)):
                yield [group[(start + place) % len(group)] for place in range(rows)]

    def _not_one_row(self, canonical: int, scale: float) -> tuple[str, bool]:
        """Why a probe's row is not one at biases moved by ``scale``; whether records are mixed.

        Empty where it is one.
        """
        with moved_biases(self.model, self.layout, scale):
            for cuts in cuts_of_each(self.groups, canonical, scale):
                for first, now in self._met_again(cuts):
                    by = (now.loss - first.loss).abs()
                    apart = scale <= _LITTLE and bool(by > TOLERANCE * now.largest_loss)
                    if torch.equal(now.row, first.row) and not apart:
                        continue
                    layer = self._first_layer(first, now)
                    if apart:
                        layer = layer or "the loss"
                        return not_its_own("loss", self.model, layer, mixes_records=True), True
                    mixed = _mixed(first, now, scale)
                    layer = layer or "the backward pass"
                    return not_its_own("gradient", self.model, layer, mixed), mixed
        return "", False

    def _met_again(self, cuts: Cuts) -> Iterator[tuple[_Met, _Met]]:
        """Each probe as it was met first, and wherever it is met again."""
        first: dict[int, _Met] = {}
        for batch, (losses, rows) in compared(self.model, cuts, self._compute, self.most_tokens):
            largest = rows.norm(dim=1).max(), losses.abs().max()
            for place, probe in enumerate(batch):
                now = _Met(batch, place, rows[place], losses[place], *largest)
                if probe not in first:  # a view would hold all rows of the batch
                    first[probe] = replace(now, row=now.row.clone())
                yield first[probe], now

    def _compute(self, batch: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Losses [B] and gradient rows [B, P], by the hooks."""
        values: list[Tensor] = []

        def losses() -> Tensor:
            values.append(self.losses(batch))
            return values[0]

        rows = self.gradients.rows(losses, len(batch))
        return values[0].detach(), rows

    def _first_layer(self, *places: _Met) -> str:
        """The first layer whose output for a record differs between two places, if any does."""
        first, second = (self._outputs(met.batch, met.place) for met in places)
        both = (path for path in first if path in second)
        return next((path for path in both if not torch.equal(first[path], second[path])), "")

    def _outputs(self, batch: Sequence[int], place: int) -> dict[str, Tensor]:
        """The output for one record of each layer, in the order of computation."""
        outputs: dict[str, Tensor] = {}

        def keep(path: str, _layer: nn.Module, output: Any) -> None:
            if isinstance(output, Tensor) and len(output) == len(batch):
                outputs.setdefault(path, output[place].nan_to_num())

        with watching(innermost(self.model), keep), torch.no_grad():
            self.losses(batch)
        return outputs
