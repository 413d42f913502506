"""A model is trained from losses alone only after they have been seen to be each record's own.

The counterpart of ``selfcheck`` where no gradient is asked for, as in features, evaluations and
DPZero, whose kernels and ways through a model may be others: it too runs on public probes,
and finds the canonical size of a micro-batch, from which on a record's loss, and the output of
every layer that has one for each record, is the same to the bit, whatever its companions, their
number and its place among them. Biases train here that have no gradient of one record: of a
layer used as a function, or whose output does not begin with the record.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dpbitfit.engine.biases import (
    NO_OWNER,
    UNREACHED,
    BiasLayout,
    freeze,
    read_biases,
    require_precision,
    write_biases,
)
from dpbitfit.engine.determinism import deterministic
from dpbitfit.engine.finite import require_finite
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
from dpbitfit.engine.screening import Losses, log_left_out, per_record_layers, watching, without
from dpbitfit.errors import ModelError

_REACHES = 1e3  # standard deviations by which a bias is moved to see whether a loss notices


def check_losses(
    model: nn.Module,
    layout: BiasLayout,
    losses: Losses,
    lengths: NDArray[np.int64],
    private: bool = True,
) -> tuple[BiasLayout, int]:
    """What of ``layout`` trains, and the canonical size of a micro-batch, in rows.

    Arguments and result are as of ``selfcheck.check_gradients``. Taken in are the biases that
    no layer adds to its output; left out are those of which no loss takes notice.

    Raises ModelError when a weight or loss is not finite, when a loss changes with its
    companions at every size, when a trained parameter is not in float32 or float64, in which
    alone a small step is one, and when hardly any bias is left.
    """
    require_finite(model)
    with deterministic(), torch.no_grad():
        freeze(model)
        layout = _taking_in(model, layout)
        require_precision(model, layout)
        layout = without(layout, _unnoticed(model, layout, losses, by_length(lengths)))
    log_left_out(layout)
    return layout, canonical_rows(model, layout, losses, lengths) if private else 1


def canonical_rows(
    model: nn.Module,
    layout: BiasLayout,
    losses: Losses,
    lengths: NDArray[np.int64],
    least: int = 1,
) -> int:
    """The canonical size of a micro-batch without gradients, in rows: ``least`` or more.

    Other arguments are as of ``check_losses``. Raises ModelError when a record's loss or a layer's
    output for it changes with its companions at every size.
    """
    with deterministic(), torch.no_grad():
        return _Check(model, layout, losses, by_length(lengths)).run(least)


def _taking_in(model: nn.Module, layout: BiasLayout) -> BiasLayout:
    """The layout with the biases that no layer adds to its output."""
    names = [bias.name for bias in layout.left_out if bias.why == NO_OWNER]
    shapes = [tuple(model.get_parameter(name).shape) for name in names]
    rest = tuple(bias for bias in layout.left_out if bias.why != NO_OWNER)
    return BiasLayout((*layout.names, *names), (*layout.shapes, *shapes), rest)


def _unnoticed(
    model: nn.Module, layout: BiasLayout, losses: Losses, groups: Mapping[int, list[int]]
) -> dict[str, str]:
    """The parameters of which no probe's loss takes notice, however far they move."""
    noticed: set[str] = set()
    for scale in (0.0, BIAS_SCALES[0]):  # beneath a head of zeros, nothing is noticed at first
        with moved_biases(model, layout, scale):
            before = {length: losses(group) for length, group in groups.items()}
            if scale == 0 and not all(values.isfinite().all() for values in before.values()):
                raise ModelError("a loss is not finite: the model's weights are damaged")
            own = read_biases(model, layout)
            moves = _REACHES * np.random.default_rng(0).standard_normal(own.size)
            for name, _, place in layout.slices():
                if name in noticed:
                    continue
                moved = own.copy()
                moved[place] += moves[place]
                write_biases(model, layout, moved)
                if not all(
                    torch.equal(losses(groups[length]), before[length]) for length in groups
                ):
                    noticed.add(name)
    return {name: UNREACHED for name in layout.names if name not in noticed}


class _Check:
    """Compares what a record's loss and layers are among different companions."""

    def __init__(
        self,
        model: nn.Module,
        layout: BiasLayout,
        losses: Losses,
        groups: Mapping[int, list[int]],
    ) -> None:
        self._model, self._layout, self._losses, self._groups = model, layout, losses, groups
        self._layers = per_record_layers(model, losses, groups.values())
        self._batch: Sequence[int] = ()  # of this forward pass
        self._seen: set[str] = set()  # layers that it has come by
        self._first: dict[tuple[int, str], Tensor] = {}  # a probe's own row [...] of each layer
        self._differing: tuple[str, bool] | None = None  # see ``_differs``

    def run(self, least: int) -> int:
        """The canonical size, from ``least`` on; ModelError where there is none."""
        layer, mixes = "", False
        with watching(self._layers, self._see):
            for canonical in (rows for rows in CANONICAL_ROWS if rows >= least):
                for scale in (0.0, *BIAS_SCALES):
                    layer, mixes = self._differs(canonical, scale)
                    if layer:
                        break
                else:
                    return canonical
        raise ModelError(not_its_own("loss", self._model, layer, mixes))

    def _differs(self, canonical: int, scale: float) -> tuple[str, bool]:
        """The first layer, or the loss, that is not a record's own at biases moved by ``scale``.

        And whether by more than rounding: then records are mixed. Empty where there is none.
        """
        with moved_biases(self._model, self._layout, scale):
            for cuts in cuts_of_each(self._groups, canonical, scale):
                self._first.clear()
                for _ in compared(self._model, cuts, self._compute):
                    if self._differing is not None:
                        (name, mixes), self._differing = self._differing, None
                        return name, mixes and scale == 0
        return "", False

    def _compute(self, batch: Sequence[int]) -> None:
        """Compare the layers' outputs as they come: a large model's are too much to keep."""
        self._batch = batch
        self._seen.clear()
        values = self._losses(batch)
        if values.shape != (len(batch),):
            raise ModelError("private training needs one loss for each record, not their mean")
        self._compare("the loss", values)

    def _see(self, path: str, _layer: nn.Module, output: Any) -> None:
        if path not in self._seen:
            self._seen.add(path)
            self._compare(path, output[0] if isinstance(output, tuple) else output)

    def _compare(self, name: str, output: Tensor) -> None:
        """Compare one row for each record [B, ...] with what the records' rows were before."""
        values = _numbers(output)
        for probe, places in _runs(self._batch):
            own = values[places]  # [n, ...], all alike
            if (probe, name) not in self._first:
                self._first[probe, name] = own[0].clone()
            before = self._first[probe, name].expand_as(own)
            if self._differing is None and not torch.equal(own, before):
                self._differing = name, _apart(own, before)


def _runs(batch: Sequence[int]) -> Iterator[tuple[int, slice]]:
    """The probes of a micro-batch, each with places that it has one after another."""
    for probe, places in groupby(range(len(batch)), key=lambda place: batch[place]):
        first, *others = places
        yield probe, slice(first, first + 1 + len(others))


def _numbers(output: Tensor) -> Tensor:
    """A copy that can be compared: what is not finite, and equals nothing, is 0."""
    return output.nan_to_num(0.0, 0.0, 0.0)


def _apart(value: Tensor, other: Tensor) -> bool:
    """Whether two rows differ by more than rounding."""
    return bool((value - other).float().norm() > TOLERANCE * other.float().norm())
