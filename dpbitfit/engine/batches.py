"""Micro-batches in which a record's row is a function of that record alone, to the bit.

What a record is padded to, and which kernel computes it, must not follow from its
companions: biases can be chosen that magnify float32's rounding, and an overflow at
padding, to many clipping norms. So a record's padded length follows from its own
length, a micro-batch holds records of one padded length, and its size is a whole
multiple of the canonical size from which on this machine's kernels agree
(``selfcheck.check_gradients`` finds it), filled up with copies that are dropped. A GPU's
libraries choose a kernel by shape in ways of their own: there a micro-batch has one of few
shapes, each of which was checked.
"""

import sys
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

SHORTEST = 8  # tokens
# Of padded lengths: a thread that is left with fewer rows of a product takes another kernel.
PADDED_MULTIPLE = 4
LARGEST_SHAPE = 256  # rows, where shapes are few


def padded_length(tokens: int, most: int) -> int:
    """Tokens that a record of ``tokens`` is padded to, at most ``most``, which the model reads.

    8, 12, 16, ..., 32, 40, ..., 64, 80, ..., 128, ...: few lengths, so that micro-batches are
    large, and little padding. How short a plan cuts texts changes none of them.
    """
    step = max(PADDED_MULTIPLE, (1 << max(0, tokens - 1).bit_length()) // 8)
    return min(max(SHORTEST, -(-tokens // step) * step), most)


def micro_batches(
    records: Sequence[int],
    lengths: NDArray[np.int64],
    canonical_rows: int,
    token_budget: int,
    few_shapes: bool = False,
    most_rows: int = sys.maxsize,
) -> Iterator[list[int]]:
    """Cut records into batches of one padded length, ascending.

    ``lengths`` [n] are padded. A batch has at most ``token_budget`` tokens and ``most_rows``
    rows, but may always hold ``canonical_rows`` records. With
    ``few_shapes``, each has one of ``shapes`` when it is filled, of which little is copies.
    """
    by_length: dict[int, list[int]] = {}
    for record in records:
        by_length.setdefault(int(lengths[record]), []).append(record)
    for length in sorted(by_length):
        left = by_length[length]
        tokens = min(token_budget, most_rows * length)
        if few_shapes:
            sizes = shapes(length, canonical_rows, tokens)
        else:
            sizes = [max(1, tokens // (length * canonical_rows)) * canonical_rows]
        while left:
            size = _next_size(len(left), sizes)
            yield left[:size]
            left = left[size:]


def _next_size(left: int, sizes: list[int]) -> int:
    """The largest of some sizes, ascending, in which few rows would be copies."""
    copies = {size: size - left for size in sizes}
    little = [size for size in sizes if copies[size] <= size // 4 or copies[size] < sizes[0]]
    return max(little, default=sizes[0])


def filled(batch: Sequence[int], canonical_rows: int, few_shapes: bool = False) -> list[int]:
    """A batch filled up to a whole multiple of ``canonical_rows`` with copies of its last record.

    With ``few_shapes``, to the next of ``shapes``. The copies' results are to be dropped.
    """
    missing = -len(batch) % canonical_rows
    if few_shapes:
        times = (len(batch) + missing) // canonical_rows
        missing += ((1 << (times - 1).bit_length()) - times) * canonical_rows
    return [*batch, *[batch[-1]] * missing]


def has_few_shapes(model: nn.Module) -> bool:
    """Whether micro-batches of a model have few shapes: wherever it is not on the CPU."""
    return next(model.parameters()).device.type != "cpu"


def shapes(length: int, canonical_rows: int, token_budget: int) -> list[int]:
    """Rows that a micro-batch of one padded length may have, where shapes are few, ascending."""
    rows = [canonical_rows]
    while 2 * rows[-1] <= min(LARGEST_SHAPE, token_budget // length):
        rows.append(2 * rows[-1])
    return rows
