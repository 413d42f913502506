"""A model's outputs for all records, each a function of its record alone, to the bit."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from dpbitfit.engine import batches
from dpbitfit.engine.batches import deterministic, filled, micro_batches
from dpbitfit.engine.training import PrivateRecords
from dpbitfit.tasks.base import Progress


def outputs(
    model: nn.Module,
    records: PrivateRecords,
    forward: Callable[[Sequence[int]], Tensor],
    progress: Progress | None = None,
) -> Iterator[tuple[list[int], Tensor]]:
    """Micro-batches of all records, each with its outputs [B, ...] on the CPU.

    ``forward`` computes the outputs by ``model`` of records of one padded length. ``progress``
    is called after each batch, and may end it.
    """
    count, done, canonical = len(records.lengths), 0, records.canonical_rows
    few = batches.has_few_shapes(model)
    with torch.no_grad(), deterministic():
        cut = micro_batches(range(count), records.lengths, canonical, few_shapes=few)
        for batch in cut:
            yield batch, forward(filled(batch, canonical, few))[: len(batch)].float().cpu()
            done += len(batch)
            if progress is not None:
                progress(done, count)
