"""What a guard does with records: a round of training, or of evaluation.

Each says what it costs before it is done, and does it without knowing of
ledgers, signatures or messages.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from dpbitfit.accounting.mechanism import Counts, Mechanism, merged
from dpbitfit.engine.biases import write_biases
from dpbitfit.engine.determinism import deterministic
from dpbitfit.engine.noise import DiscreteGaussian
from dpbitfit.engine.optimizers import OptimizerState
from dpbitfit.errors import PolicyError
from dpbitfit.phases import DpZeroPhase, SampledPhase
from dpbitfit.plan import Plan
from dpbitfit.protocol.messages import EVALUATE, TRAIN, EvaluateReply, RoundReply, TrainReply
from dpbitfit.tasks.base import Metric, Progress
from dpbitfit.tasks.rounds import RoundStart, site_round
from dpbitfit_client.guard import stored_reply
from dpbitfit_client.guard.task_cache import LoadedTask
from dpbitfit_client.policy.policy import Dataset, Evaluation

Vector = NDArray[np.float32]
Fields = Mapping[str, Any]  # that every reply has


@dataclass(frozen=True)
class RoundWork:
    """Round ``number`` of a run's plan, the data set that it is for, and the task of both."""

    plan: Plan
    number: int
    run: str
    dataset: Dataset
    loaded: LoadedTask


class Operation(Protocol):
    """Work on a site's records; ``purpose`` is what its request is signed for."""

    purpose: str

    def part(self, dataset: Dataset) -> Dataset | Evaluation:
        """The records that it is done on; PolicyError where there are none for it."""

    def steps(self, work: RoundWork) -> tuple[Counts, Counts]:
        """What the round costs, and the whole plan; PolicyError where it may not."""

    def check(self, work: RoundWork) -> None:
        """Raise, before anything is charged, where the round could not be worked."""

    def do(self, work: RoundWork, biases: Vector, before: bytes | None) -> bytes:
        """The payload to store; ``before`` is the last of the run."""

    def reply(self, plan: Plan, payload: bytes, fields: Fields) -> tuple[RoundReply, bytes]:
        """The message of a stored payload, and its content."""


class TrainRound:
    """A round of a plan's phase at a ``site``; ``progress`` is called before each step."""

    purpose = TRAIN

    def __init__(self, progress: Progress, site: str) -> None:
        self._progress, self._site = progress, site

    def part(self, dataset: Dataset) -> Dataset | Evaluation:
        """The data set's own records."""
        return dataset

    def steps(self, work: RoundWork) -> tuple[Counts, Counts]:
        """The noisy steps of the round's phase, and those of all phases."""
        phase = work.plan.phase(work.number)
        self._progress(0, phase.steps_per_round)  # the caller may be gone, and nothing is spent
        return phase.round_counts, work.plan.counts

    def check(self, work: RoundWork) -> None:
        """The plan is for this very task; where the phase samples, all devices are ready."""
        work.loaded.check(work.plan)
        if isinstance(work.plan.phase(work.number), SampledPhase):
            work.loaded.workers.ready(work.loaded.task)

    def do(self, work: RoundWork, biases: Vector, before: bytes | None) -> bytes:
        """What the phase releases, and the optimizer's new state."""
        dataset, loaded, place = work.dataset, work.loaded, work.plan.locate(work.number)
        state = stored_reply.state_of(before, place.position)
        if isinstance(place.phase, DpZeroPhase):  # whose steps the coordinator takes again
            state = OptimizerState(place.step)
        directions = work.plan.directions(work.run, self._site, place.position)
        start = RoundStart(place.phase, dataset.declared_size, biases, state, directions)
        with loaded.workers.round(start) as ranks:
            records, features = loaded.records(dataset), loaded.features(dataset)
            released, state = site_round(
                loaded.task, records, features, start, self._progress, ranks
            )
        return stored_reply.pack(released, state, place.position)

    def reply(self, plan: Plan, payload: bytes, fields: Fields) -> tuple[RoundReply, bytes]:
        """What the round released alone: the state stays."""
        return TrainReply(**fields), plan.updates.encode(stored_reply.released_of(payload))


class EvaluateRound:
    """A plan's metrics on held-out records; ``progress`` is called before each batch."""

    purpose = EVALUATE

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def part(self, dataset: Dataset) -> Dataset | Evaluation:
        """The held-out records."""
        if dataset.evaluation is None:
            raise PolicyError("the policy allows no evaluation")
        return dataset.evaluation

    def steps(self, work: RoundWork) -> tuple[Counts, Counts]:
        """One Gaussian mechanism at sampling rate 1 for each metric."""
        self._progress(0, 1)  # the caller may be gone, and nothing is spent
        mechanisms = [Mechanism(sigma, 1.0) for sigma in _chosen(work).values()]
        times = work.plan.site_metrics.evaluations
        return merged((m, 1) for m in mechanisms), merged((m, times) for m in mechanisms)

    def check(self, work: RoundWork) -> None:
        """The plan is for this very task."""
        work.loaded.check(work.plan)

    @deterministic()
    def do(self, work: RoundWork, biases: Vector, before: bytes | None) -> bytes:
        """The noised metrics."""
        loaded, part = work.loaded, self.part(work.dataset)
        records = loaded.records(part)
        write_biases(loaded.task.model, loaded.task.layout, biases)
        values = loaded.task.evaluate(records, self._progress)
        metrics = {
            name: measure(
                loaded.task.metrics[name], values[name], records.units, sigma, part.declared_size
            )
            for name, sigma in _chosen(work).items()
        }
        return json.dumps(metrics).encode()

    def reply(self, plan: Plan, payload: bytes, fields: Fields) -> tuple[RoundReply, bytes]:
        """The metrics by name."""
        return EvaluateReply(**fields, metrics=json.loads(payload)), b""


def measure(
    metric: Metric,
    values: NDArray[np.float64],
    units: Sequence[NDArray[np.int64]],
    noise_multiplier: float,
    declared_size: int,
) -> float:
    """A noised metric, from 0 to its bound, of records with some ``values`` [n].

    *Formal guarantee*: a Gaussian mechanism of that noise multiplier. A unit's
    value is the mean over its records of what is clipped to the metric's public bound
    and divided by it, in [0, 1], so adding or removing a unit moves the sum by at most
    1; the divisor is a public constant.
    """
    bound = metric.bound
    # Hostile biases can make a value that is no number: it counts as the bound.
    shares = np.clip(np.nan_to_num(values, nan=bound), 0, bound) / bound  # [n]
    by_unit = np.array([[shares[unit].mean()] for unit in units])  # [units, 1]
    noise = DiscreteGaussian(1.0, noise_multiplier)
    total = noise.round_toward_zero(torch.from_numpy(by_unit)).sum(dim=0).numpy()  # [1]
    return bound * float(np.clip(noise.release(total)[0] / declared_size, 0.0, 1.0))


def _chosen(work: RoundWork) -> dict[str, float]:
    """The noise multiplier of each of a plan's metrics; PolicyError for one that is not allowed."""
    evaluation, metrics = work.dataset.evaluation, work.plan.site_metrics
    allowed, chosen = evaluation.metrics if evaluation else {}, metrics.names
    once = chosen and metrics.evaluations and len(set(chosen)) == len(chosen)
    if not (once and set(chosen) <= set(allowed)):
        raise PolicyError("the policy does not allow these metrics")
    return {name: allowed[name].noise_multiplier for name in chosen}
