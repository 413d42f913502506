"""How large a micro-batch of a model may be on its device, and what is done where it does not fit.

The check of a model on public probes finds the largest (``selfcheck``). Where one fits no more, as
when another program took memory, it is cut in halves. What is released stays the same: rows
are those of any checked size (``batches``), and integers add up to the same.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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


def token_budget(model: nn.Module, most: int | None = None) -> int:
    """The most tokens of a micro-batch, as far as is known; the smallest may have more.

    ``most`` is what the caller allows, where that is a choice: then a device is not asked for more.
    """
    usual = most or (GPU_TOKENS if batches.has_few_shapes(model) else CPU_TOKENS)
    known = _budgets.get(model, usual)
    return min(usual, known)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a tensor had no place in a device's memory, or in a CPU's, for which torch has no
    error of its own.
    """
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def halve(model: nn.Module, rows: int, length: int, canonical_rows: int) -> None:
    """Lower the token budget after ``rows`` records of ``length`` tokens did not fit.

    Raises ModelError where there is no smaller micro-batch.
    """
    if rows <= canonical_rows:
        raise _too_little(model) from None  # the cause names sizes, which follow from records
    _budgets[model] = min(token_budget(model), rows * length // 2)


@contextmanager
def smallest(model: nn.Module) -> Iterator[None]:
    """For what must fit, and cannot be cut: raises ModelError, as ``halve``, where it does not."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise _too_little(model) from None


def _too_little(model: nn.Module) -> ModelError:
    return ModelError(
        f"{next(model.parameters()).device} has too little memory for the smallest "
        "micro-batch: end what else uses it, choose another device, or a smaller model or "
        "max-length"
    )


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
        budget = token_budget(model, most_tokens)
        cut = [*micro_batches(left, records.lengths, canonical, budget, few, most_rows)]
        left = []
        for place, batch in enumerate(cut):
            full = filled(batch, canonical, few)
            try:
                result = compute(batch, full)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                halve(model, len(full), int(records.lengths[batch[0]]), canonical)
                left = [record for again in cut[place:] for record in again]
                break
            yield batch, result
