"""How large a micro-batch of a model may be on its device, and what is done where it does not fit.

The check of a model on public probes finds the largest (``selfcheck``). Where one fits no more, as
when another program took memory, it is cut in halves. What is released stays the same: rows
are those of any checked size (``batches``), and integers add up to the same.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import nn

from dpbitfit.engine import batches
from dpbitfit.engine.batches import filled, micro_batches
from dpbitfit.errors import ModelError

if TYPE_CHECKING:
    from dpbitfit.engine.training import PrivateRecords

CPU_TOKENS, GPU_TOKENS = 4096, 16_384  # a GPU is idle with few
MOST_VALUES = 1 << 25  # of the rows of a micro-batch, 128 MB of them, where it can be helped

_budgets: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()

Result = TypeVar("Result")


def token_budget(model: nn.Module) -> int:
    """The most tokens of a micro-batch, as far as is known; the smallest may have more."""
    return _budgets.get(model, GPU_TOKENS if batches.has_few_shapes(model) else CPU_TOKENS)


def halve(model: nn.Module, rows: int, length: int, canonical_rows: int) -> None:
    """Lower the token budget after ``rows`` records of ``length`` tokens did not fit.

    Raises ModelError where there is no smaller micro-batch.
    """
    if rows <= canonical_rows:
        raise ModelError(
            f"{next(model.parameters()).device} has too little memory for the smallest "
            "micro-batch: end what else uses it, choose another device, or a smaller model or "
            "max-length"
        ) from None  # the cause names sizes, which follow from records
    _budgets[model] = min(token_budget(model), rows * length // 2)


def in_micro_batches(
    model: nn.Module,
    records: "PrivateRecords",
    chosen: Sequence[int],
    compute: Callable[[list[int], list[int]], Result],
    most_tokens: int | None = None,
    most_rows: int = sys.maxsize,
) -> Iterator[tuple[list[int], Result]]:
    """Micro-batches of the chosen records, each with what ``compute`` makes of it.

    ``compute`` gets the batch, and the same filled up with copies. Where it runs out of memory
    it must have done nothing: its records come again, in the same order, in smaller batches. None
    has more than ``most_tokens`` or ``most_rows``. Raises ModelError as ``halve``.
    """
    canonical, few, left = records.canonical_rows, batches.has_few_shapes(model), [*chosen]
    while left:
        budget = min(most_tokens or token_budget(model), token_budget(model))
        cut = [*micro_batches(left, records.lengths, canonical, budget, few, most_rows)]
        left = []
        for place, batch in enumerate(cut):
            full = filled(batch, canonical, few)
            try:
                result = compute(batch, full)
            except torch.OutOfMemoryError:
                halve(model, len(full), int(records.lengths[batch[0]]), canonical)
                left = [record for again in cut[place:] for record in again]
                break
            yield batch, result
