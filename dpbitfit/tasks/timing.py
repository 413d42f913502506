"""How long a step takes on this machine, measured on public probes."""

import time
from functools import partial

from torch import Tensor

from dpbitfit.engine.clipping import AbadiClipping
from dpbitfit.engine.determinism import deterministic
from dpbitfit.engine.gradients import PerRecordGradients
from dpbitfit.engine.memory import in_micro_batches
from dpbitfit.tasks.base import Task

_COPIES = 16  # of each probe, so that micro-batches are as large as in a step


def seconds_per_record(task: Task) -> float:
    """Seconds that each sampled record adds to a step: its gradient row, and the clipping of it."""
    probes = task.probes()
    chosen = [probe for probe in range(len(probes.lengths)) for _ in range(_COPIES)]
    clipper = AbadiClipping()
    with deterministic(), PerRecordGradients(task.model, task.layout) as gradients:

        def clipped(batch: list[int], full: list[int]) -> Tensor:
            rows = gradients.rows(partial(probes.losses, task.model, full), len(full))
            return clipper.clip(rows[: len(batch)]).sum(dim=0).cpu()  # which waits for the device

        began = time.perf_counter()
        for _ in in_micro_batches(task.model, probes, chosen, clipped):
            pass
        return (time.perf_counter() - began) / len(chosen)
