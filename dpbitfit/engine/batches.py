"""Micro-batches in which a record's row is a function of that record alone, to the bit.

What a record is padded to, and which kernel computes it, must not follow from its
companions: biases can be chosen that magnify float32's rounding, and an overflow at
padding, to many clipping norms. So a record's padded length follows from its own
length, a micro-batch holds records of one padded length, and its size is a whole
multiple of the canonical size from which on this machine's kernels agree
(``selfcheck.check_gradients`` finds it), filled up with copies that are dropped.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

SHORTEST = 8  # tokens
# Of padded lengths: a thread that is left with fewer rows of a product takes another kernel.
PADDED_MULTIPLE = 4


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
    canonical_rows: int = 1,
    token_budget: int = 4096,
) -> Iterator[list[int]]:
    """Cut records into batches of one padded length, ascending, with at most so many tokens.

    ``lengths`` [n] are padded. A batch may always hold ``canonical_rows`` records.
    """
    by_length: dict[int, list[int]] = {}
    for record in records:
        by_length.setdefault(int(lengths[record]), []).append(record)
    for length in sorted(by_length):
        alike = by_length[length]
        most = max(1, token_budget // (length * canonical_rows)) * canonical_rows
        for start in range(0, len(alike), most):
            yield alike[start : start + most]


def filled(batch: Sequence[int], canonical_rows: int) -> list[int]:
    """A batch filled up to a whole multiple of ``canonical_rows`` with copies of its last record.

    The copies' results are to be dropped.
    """
    return [*batch, *[batch[-1]] * (-len(batch) % canonical_rows)]


@contextmanager
def deterministic() -> Iterator[None]:
    """Only algorithms whose result is the same each time, on every device."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
