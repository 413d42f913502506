"""A model is trained privately only after its gradients have been seen to be right.

The check runs on public probes when a model is attached. It leaves out biases whose hooks
differ from ordinary autograd on one record at a time, and finds the canonical size of a
micro-batch: the smallest from which on a record's row is the same to the bit, whatever its
companions, their number and its place among them. Kernels for few rows sum in another order,
and biases can be chosen that magnify such a difference in rounding to many clipping norms.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dpbitfit.engine import batches
from dpbitfit.engine.batches import deterministic, shapes
from dpbitfit.engine.biases import (
    BELOW,
    NOT_ITS_GRADIENT,
    SOFTMAX_KEY,
    BiasLayout,
    freeze,
    is_bias,
    read_biases,
    write_biases,
)
from dpbitfit.engine.gradients import PerRecordGradients
from dpbitfit.engine.memory import halve, token_budget
from dpbitfit.engine.screening import (
    Losses,
    Rows,
    by_autograd,
    innermost,
    not_per_record,
    unreached,
    watching,
)
from dpbitfit.errors import ModelError

Result = TypeVar("Result")

TOLERANCE = 1e-3  # relative to the record's norm; what float32 kernels may differ by
CANONICAL_ROWS = (1, 2, 4, 8, 16, 32, 64)
# Standard deviations of what is added to the biases: a little, so that other sums are rounded;
# much; and what overflows when squared.
BIAS_SCALES = (0.1, 1e3, 1e19)
# Rows of the micro-batches that are compared, brought to canonical sizes: at the model's own
# biases, where the largest of the shortest records comes too, at others.
_SIZES, _FEW_SIZES = (1, 2, 3, 5, 8, 16, 24, 40), (1, 3, 8, 16, 32)
# Of a micro-batch that is compared: three canonical sizes, so many tokens, or so many rows, because
# a head sees a row a record, and kernels for up to ten or so of them sum in another order.
_MOST_TOKENS, _MOST_ROWS = 1024, 16

_log = logging.getLogger("dpbitfit.engine")


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


def by_length(lengths: NDArray[np.int64]) -> dict[int, list[int]]:
    """The probes of each padded length."""
    return {
        int(length): np.flatnonzero(lengths == length).tolist() for length in np.unique(lengths)
    }


def log_left_out(layout: BiasLayout) -> None:
    """Say in the machine's own log which biases do not train, and why."""
    for why, names in layout.left_out_by_reason.items():
        level = logging.INFO if why in (BELOW, SOFTMAX_KEY) else logging.WARNING
        _log.log(level, "not trained, because %s: %s", why, ", ".join(names))


def require_finite(model: nn.Module) -> None:
    """ModelError for weights that are no numbers, wherever they are: probes need not meet them."""
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise ModelError(f"{name} holds values that are not finite: the weights are damaged")


def without(layout: BiasLayout, reasons: Mapping[str, str]) -> BiasLayout:
    """The layout without some biases; ModelError where hardly any is left, or one is no bias."""
    for name, why in reasons.items():
        if not is_bias(name):  # the task itself has named it
            raise ModelError(f"{name}: {why}")
    layout = layout.leaving_out(reasons)
    layout.require_most()
    return layout


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


def not_its_own(what: str, model: nn.Module, layer: str, mixes_records: bool) -> str:
    """Why a record's gradient or loss is not one in every batch, by the first differing layer."""
    if mixes_records:
        return (
            f"{layer}: a record's {what} changes with the other records of its batch: "
            "a layer or the loss mixes records"
        )
    return (
        f"{layer}: on {next(model.parameters()).device} its rounding changes with the "
        f"batch, at up to {CANONICAL_ROWS[-1]} rows, so that a record's {what} would depend "
        "on other records; train on another device"
    )


@contextmanager
def moved_biases(model: nn.Module, layout: BiasLayout, scale: float) -> Iterator[None]:
    """The same model, with its biases moved by public noise of that standard deviation."""
    own = read_biases(model, layout)
    moves = np.random.default_rng(0).standard_normal(own.size)
    write_biases(model, layout, (own + scale * moves).astype(np.float32))
    try:
        yield
    finally:
        write_biases(model, layout, own)


@dataclass(frozen=True)
class Cuts:
    """What micro-batches a group of probes of one padded length is cut into."""

    group: list[int]
    canonical: int
    length: int
    few: bool
    with_largest: bool

    def batches(self, shapes: Sequence[int], largest: int) -> Iterator[list[int]]:
        """Of many sizes, in which each probe has other companions and other places.

        With ``shapes``, all that there will be, each of them twice. What is larger
        than the group is filled up with one of them: a mean over the batch differs.
        """
        group, canonical = self.group, self.canonical
        sizes = {-(-size // canonical) * canonical for size in (_FEW_SIZES if self.few else _SIZES)}
        cuts = [
            (rows, turn)
            for turn, rows in enumerate(sorted(sizes | {canonical, 2 * canonical, 3 * canonical}))
            if rows <= max(3 * canonical, _MOST_ROWS) or rows * self.length <= _MOST_TOKENS
        ]
        if self.with_largest:
            cuts.append((max(canonical, largest // canonical * canonical), 1))
        if shapes:
            each = list(enumerate(shapes))
            cuts = [(rows, turn + number) for turn in (1, 2) for number, rows in each]
        for rows, turn in cuts:
            turned = group[turn % len(group) :] + group[: turn % len(group)]
            yield [*turned[:rows], *[turned[0]] * (rows - len(group))]


def cuts_of_each(groups: Mapping[int, list[int]], canonical: int, scale: float) -> Iterator[Cuts]:
    """How the probes of each length are cut at biases moved by ``scale``."""
    own = scale == 0
    for length, group in groups.items():
        shortest = length == min(groups)  # has most rows, and as many tokens as a longer one
        yield Cuts(group, canonical, length, few=not own, with_largest=own and shortest)


def compared(
    model: nn.Module, cuts: Cuts, compute: Callable[[list[int]], Result]
) -> Iterator[tuple[list[int], Result]]:
    """Micro-batches of probes, each with what ``compute`` makes of it.

    One that does not fit the device's memory is left out, and so are all of its size from then on.
    """
    budget, sizes = token_budget(model), []
    if batches.has_few_shapes(model):
        sizes = shapes(cuts.length, cuts.canonical, budget)
    for batch in cuts.batches(sizes, budget // cuts.length):
        try:
            computed = compute(batch)
        except torch.OutOfMemoryError:
            halve(model, len(batch), cuts.length, cuts.canonical)
            continue
        yield batch, computed
