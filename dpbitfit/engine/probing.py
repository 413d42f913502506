"""How public probes are cut into micro-batches, to see whether a record has one row in all.

What ``selfcheck`` and ``losscheck`` have in common: each probe comes with other companions, at
other places, in batches of many sizes, at the model's own biases and at others.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import nn

from dpbitfit.engine import batches
from dpbitfit.engine.biases import BiasLayout, read_biases, write_biases
from dpbitfit.engine.memory import halve, is_out_of_memory, token_budget

Result = TypeVar("Result")

TOLERANCE = 1e-3  # relative to the record's norm; what float32 kernels may differ by
CANONICAL_ROWS = (1, 2, 4, 8, 16, 32, 64)
# Standard deviations of what is added to the biases: a little, so that other sums are rounded; so
# much that records' losses are unlike; more; and what overflows when squared.
BIAS_SCALES = (0.1, 3.0, 1e3, 1e19)
# Rows of the micro-batches that are compared, brought to canonical sizes: at the model's own
# biases, where the largest of the shortest records comes too, at others.
_SIZES, _FEW_SIZES = (1, 2, 3, 5, 8, 16, 24, 40), (1, 3, 8, 16, 32)
# Of a micro-batch that is compared, beside three canonical sizes. Also in rows, because a head sees
# a row a record, and kernels for up to ten or so of them sum in another order.
_MOST_TOKENS, _MOST_ROWS = 1024, 16


def by_length(lengths: NDArray[np.int64]) -> dict[int, list[int]]:
    """The probes of each padded length."""
    return {
        int(length): np.flatnonzero(lengths == length).tolist() for length in np.unique(lengths)
    }


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
    alone: bool

    def batches(
        self, shapes: Sequence[int], largest: int, most_rows: int = sys.maxsize
    ) -> Iterator[list[int]]:
        """Of many sizes, in which each probe has other companions and other places.

        With ``shapes``, all that there will be, each of them twice. Every second has no more than
        half of the group, and what is larger is filled up with one of them: both the largest and
        the mean of a batch differ. Where ``alone``, each probe comes with copies of itself too.
        """
        group, canonical = self.group, self.canonical
        sizes = {-(-size // canonical) * canonical for size in (_FEW_SIZES if self.few else _SIZES)}
        cuts = [
            (rows, turn)
            for turn, rows in enumerate(sorted(sizes | {canonical, 2 * canonical, 3 * canonical}))
            if rows <= max(3 * canonical, most_rows)
            and (rows <= max(3 * canonical, _MOST_ROWS) or rows * self.length <= _MOST_TOKENS)
        ]
        if self.with_largest:
            cuts.append((max(canonical, largest // canonical * canonical), 1))
        if shapes:
            each = list(enumerate(shapes))
            cuts = [(rows, turn + number) for turn in (1, 2) for number, rows in each]
        for rows, turn in cuts:
            turned = group[turn % len(group) :] + group[: turn % len(group)]
            some = turned[: min(rows, -(-len(group) // (1 + turn % 2)))]
            yield [*some, *[turned[0]] * (rows - len(some))]
        for probe in group if self.alone else ():
            yield [probe] * canonical


def cuts_of_each(groups: Mapping[int, list[int]], canonical: int, scale: float) -> Iterator[Cuts]:
    """How the probes of each length are cut at biases moved by ``scale``."""
    own = scale == 0
    alone = scale <= BIAS_SCALES[1]  # further away losses are no sign of mixing
    for length, group in groups.items():
        shortest = length == min(groups)  # has most rows, and as many tokens as a longer one
        yield Cuts(group, canonical, length, not own, own and shortest, alone)


def compared(
    model: nn.Module,
    cuts: Cuts,
    compute: Callable[[list[int]], Result],
    most_tokens: int | None = None,
) -> Iterator[tuple[list[int], Result]]:
    """Micro-batches of probes, each with what ``compute`` makes of it.

    They have no more than ``most_tokens``, where there will be none with more, but for three times
    the canonical size. One that does not fit the device's memory is left out, and so are all of
    its size from then on.
    """
    budget, sizes = token_budget(model, most_tokens), []
    most_rows = budget // cuts.length if most_tokens else sys.maxsize
    if batches.has_few_shapes(model):
        sizes = batches.shapes(cuts.length, cuts.canonical, budget)
    for batch in cuts.batches(sizes, budget // cuts.length, most_rows):
        try:
            computed = compute(batch)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            halve(model, len(batch), cuts.length, cuts.canonical)
            continue
        yield batch, computed
