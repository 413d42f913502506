"""A model's outputs for all records, each a function of its record alone, to the bit."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from dpbitfit.engine.determinism import deterministic
from dpbitfit.engine.memory import in_micro_batches
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
    count, done = len(records.lengths), 0

    def compute(batch: list[int], full: list[int]) -> Tensor:
        return forward(full)[: len(batch)].float().cpu()

    with torch.no_grad(), deterministic():
        for batch, rows in in_micro_batches(model, records, range(count), compute):
            yield batch, rows
            done += len(batch)
            if progress is not None:
                progress(done, count)
