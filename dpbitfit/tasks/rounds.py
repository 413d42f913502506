"""A site's part of one round, whatever its phase: what it releases, and the optimizer's state."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpbitfit.engine import linear_head
from dpbitfit.engine.biases import write_biases
from dpbitfit.engine.determinism import deterministic
from dpbitfit.engine.directions import Directions
from dpbitfit.engine.optimizers import OptimizerState
from dpbitfit.engine.ranks import Ranks
from dpbitfit.engine.training import train_round
from dpbitfit.phases import ClassSums, HeadDescent, Phase, SampledPhase
from dpbitfit.tasks import features
from dpbitfit.tasks.base import LinearTask, PreparedRecords, Progress, Task

Vector = NDArray[np.float32]


@dataclass(frozen=True)
class RoundStart:
    """Where a site's round starts: the packed ``biases`` [P] and the optimizer's ``state``.

    ``directions`` are those of a ``DpZeroPhase``.
    """

    phase: Phase
    declared_size: int
    biases: Vector
    state: OptimizerState
    directions: Directions | None = None


@deterministic()  # features and what is prepared, too, which a site's own task computes as it likes
def site_round(
    task: Task,
    records: Any,
    cache: features.FeatureCache,
    start: RoundStart,
    progress: Progress | None = None,
    ranks: Ranks | None = None,
) -> tuple[Vector, OptimizerState]:
    """Work one round.

    Returns what the phase releases of its places, in float32: the noised sum, the change, or
    the noised rows along the directions.
    ``progress`` is called before and after each step, and may end the round. ``ranks`` are the
    processes that share the sampled units, each with the same arguments. Raises
    InputError as ``train_round``, and where a task without a linear head is to train one.
    """
    phase = start.phase
    if not isinstance(phase, SampledPhase):
        return _noised_sum(task, records, cache, phase, start.biases, progress), start.state
    cache.drop()
    if isinstance(records, PreparedRecords):
        records.prepare(progress)
    head = task.linear_head if isinstance(task, LinearTask) else None
    places = phase.places(task.layout.size, head)
    layout = task.layout
    if head is not None and phase.trains == "biases":
        layout = layout.without(head.weight)
    write_biases(task.model, task.layout, start.biases)
    return train_round(
        task.model,
        layout,
        records,
        phase,
        start.declared_size,
        start.biases[places],
        start.state,
        progress=progress,
        directions=start.directions,
        ranks=ranks,
    )


def _noised_sum(
    task: Task,
    records: Any,
    cache: features.FeatureCache,
    phase: ClassSums | HeadDescent,
    vector: Vector,
    progress: Progress | None,
) -> Vector:
    """The noised sum [K * d] over all units: one Gaussian mechanism at sampling rate 1."""
    _, head = features.trained_head(task)
    seen = cache.find(vector, progress)
    check = progress or (lambda _done, _total: None)
    check(0, 1)  # features that are cached take no time, and the sums of many records do
    if isinstance(phase, ClassSums):
        coefficients = linear_head.one_hot(seen.classes, head.classes)
    else:
        coefficients = linear_head.residuals(head, vector, seen.rows, seen.classes)
    check(0, 1)
    total = linear_head.outer_sum(coefficients, seen.rows, records.units, phase.norm)
    return phase.source().release(total).astype(np.float32)
