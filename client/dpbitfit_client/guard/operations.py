"""What a guard does with records: a round of training, or a measurement.

Each says what it costs before it is done, and does it without knowing of
ledgers, signatures or messages.
"""

import json
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from dpbitfit.accounting.composition import Counts, Mechanism, merged
from dpbitfit.engine.biases import write_biases
from dpbitfit.engine.noise import DiscreteGaussian
from dpbitfit.engine.training import train_round
from dpbitfit.errors import PolicyError
from dpbitfit.plan import Plan
from dpbitfit.tasks.text_classification import Progress, TextRecords, TextTask
from dpbitfit_client.generated import guard_pb2 as pb
from dpbitfit_client.guard import stored_reply
from dpbitfit_client.guard.task_cache import LoadedTask
from dpbitfit_client.policy.policy import Dataset, Evaluation

MOST_LOSS = 10.0  # nats, a public constant: each record's loss is cut there

Vector = NDArray[np.float32]
Round_co = TypeVar("Round_co", bound=pb.TrainReply | pb.EvaluateReply, covariant=True)


class Operation(Protocol[Round_co]):
    """One kind of work on a site's records; ``purpose`` is what its request is signed for."""

    purpose: str

    def part(self, dataset: Dataset) -> Dataset | Evaluation:
        """The records that it is done on; PolicyError where there are none for it."""

    def steps(self, plan: Plan, dataset: Dataset) -> tuple[Counts, Counts]:
        """What once costs, and all that the plan will ask for; PolicyError where it may not."""

    def do(
        self, plan: Plan, dataset: Dataset, room: LoadedTask, biases: Vector, before: bytes | None
    ) -> bytes:
        """The answer to keep; ``before`` is the run's last one."""

    def reply(self, payload: bytes) -> Round_co:
        """The message that an answer is sent in."""


class TrainRound:
    """A round of DP-SGD; ``progress`` is told of each step."""

    purpose = "train"

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def part(self, dataset: Dataset) -> Dataset | Evaluation:
        """The data set's own records."""
        return dataset

    def steps(self, plan: Plan, dataset: Dataset) -> tuple[Counts, Counts]:
        """The plan's mechanism, so often in a round and in all."""
        self._progress(0, plan.steps_per_round)  # whoever asked may be gone, and nothing is spent
        return plan.counts(plan.steps_per_round), plan.counts(plan.steps)

    def do(
        self, plan: Plan, dataset: Dataset, room: LoadedTask, biases: Vector, before: bytes | None
    ) -> bytes:
        """The noised change and the optimizer's new state."""
        change, state = train_round(
            room.task.model,
            room.task.layout,
            room.records(dataset),
            plan,
            dataset.declared_size,
            biases,
            stored_reply.state_of(before),
            progress=self._progress,
        )
        return stored_reply.pack(change, state)

    def reply(self, payload: bytes) -> pb.TrainReply:
        """The change alone: the state stays."""
        return pb.TrainReply(update=stored_reply.change_of(payload).astype("<f4").tobytes())


class EvaluateRound:
    """A plan's metrics on records that are kept for that; ``progress`` is told of each batch."""

    purpose = "evaluate"

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def part(self, dataset: Dataset) -> Dataset | Evaluation:
        """The records that are kept for it."""
        if dataset.evaluation is None:
            raise PolicyError("the policy allows no evaluation")
        return dataset.evaluation

    def steps(self, plan: Plan, dataset: Dataset) -> tuple[Counts, Counts]:
        """One Gaussian mechanism at sampling rate 1 for each metric."""
        self._progress(0, 1)  # whoever asked may be gone, and nothing is spent
        once = [(Mechanism(sigma, 1.0), 1) for sigma in _chosen(plan, dataset).values()]
        return merged(once), merged((one, plan.evaluations) for one, _ in once)

    def do(
        self, plan: Plan, dataset: Dataset, room: LoadedTask, biases: Vector, before: bytes | None
    ) -> bytes:
        """The noised metrics."""
        part = self.part(dataset)
        records = room.records(part)
        write_biases(room.task.model, room.task.layout, biases)
        found = {
            name: measure(room.task, records, name, sigma, part.declared_size, self._progress)
            for name, sigma in _chosen(plan, dataset).items()
        }
        return json.dumps(found).encode()

    def reply(self, payload: bytes) -> pb.EvaluateReply:
        """The metrics by name."""
        return pb.EvaluateReply(metrics=json.loads(payload))


def measure(
    task: TextTask,
    records: TextRecords,
    metric: str,
    noise_multiplier: float,
    declared_size: int,
    progress: Progress,
) -> float:
    """One noised metric: ``accuracy`` from 0 to 1, or ``loss`` in nats.

    *Formal guarantee*: a Gaussian mechanism of that noise multiplier. A unit's
    value is the mean over its records, in [0, 1], so adding or removing a unit
    moves the sum by at most 1; the divisor is a public constant.
    """
    correct, losses = task.score(records, progress)  # [n], [n]
    most = MOST_LOSS if metric == "loss" else 1.0
    values = losses if metric == "loss" else correct
    # Hostile biases can make a loss that is no number: it counts as the largest.
    values = np.clip(np.nan_to_num(values, nan=most), 0, most) / most  # [n]
    by_unit = np.array([[values[unit].mean()] for unit in records.units])  # [units, 1]
    noise = DiscreteGaussian(1.0, noise_multiplier)
    total = noise.round_toward_zero(by_unit).sum(axis=0)  # [1]
    return most * float(np.clip(noise.release(total)[0] / declared_size, 0.0, 1.0))


def _chosen(plan: Plan, dataset: Dataset) -> dict[str, float]:
    """The noise multiplier of each metric that a plan asks for; PolicyError for another one."""
    allowed = dataset.evaluation.metrics if dataset.evaluation else {}
    chosen = plan.metrics.split(",")
    if not plan.evaluations or len(set(chosen)) < len(chosen) or not set(chosen) <= set(allowed):
        raise PolicyError("the policy does not allow these metrics")
    return {name: allowed[name] for name in chosen}
