"""One site's part of a round: DP-SGD on the biases, step by step.

    sampled units -> gradient rows -> clipped, on the grid -> one integer sum
                  -> one noise draw -> public divisor -> optimizer

*Formal guarantee*: each step is the Gaussian mechanism with the plan's noise
multiplier on a Poisson sample at the plan's rate, for adding or removing one
unit; what follows the noise is post-processing. A unit's clipped row is a function
of that unit and the biases alone, to the bit (see ``batches``), so that as integers
on the noise's grid the sum with a unit less the sum without it is that row.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from dpbitfit.engine.batches import deterministic, filled, micro_batches
from dpbitfit.engine.biases import BiasLayout, write_biases
from dpbitfit.engine.clipping import clip
from dpbitfit.engine.gradients import PerRecordGradients
from dpbitfit.engine.noise import Noise, RandomSource, make_noise
from dpbitfit.engine.sampling import PoissonSampler
from dpbitfit.errors import InputError
from dpbitfit.plan import Plan

# Kingma and Ba 2015, algorithm 1.
BETA_FIRST, BETA_SECOND, ADAM_EPSILON = 0.9, 0.999, 1e-8

Vector = NDArray[np.float64]


class PrivateRecords(Protocol):
    """A site's records as the training loop sees them."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens [n] that each record is padded to: a function of that record alone."""

    @property
    def canonical_rows(self) -> int:
        """Of how many rows a micro-batch must be a whole multiple; see ``batches``."""

    @property
    def units(self) -> Sequence[NDArray[np.int64]]:
        """The records of each unit of privacy; every record in exactly one."""

    def losses(self, model: nn.Module, records: Sequence[int]) -> Tensor:
        """The losses [B] of records of one padded length, each depending on its record alone."""


@dataclass
class OptimizerState:
    """DP-Adam's moments [P]: functions of noised gradients only, so free to keep."""

    step: int = 0
    first: Vector | None = None
    second: Vector | None = None


def train_round(
    model: nn.Module,
    layout: BiasLayout,
    records: PrivateRecords,
    plan: Plan,
    declared_size: int,
    biases: NDArray[np.float32],
    state: OptimizerState,
    token_budget: int = 4096,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[NDArray[np.float32], OptimizerState]:
    """Train one round from ``biases`` [P]; returns the change [P] and the new state.

    Every one of ``plan.steps_per_round`` steps releases one noised sum, divided
    by ``plan.sampling_rate * declared_size``: a public constant, never the
    number of records. Raises InputError when ``declared_size`` is not positive.
    """
    if declared_size < 1:
        raise InputError(f"the declared size must be at least 1, not {declared_size}")
    noise = make_noise(plan.noise, plan.clipping_norm, plan.noise_multiplier)
    sampler = PoissonSampler(len(records.units), plan.sampling_rate, RandomSource())
    divisor = plan.sampling_rate * declared_size
    values = biases.astype(np.float64)  # [P]
    model.eval()  # dropout off
    with deterministic(), PerRecordGradients(model, layout) as recorder:
        for step in range(plan.steps_per_round):
            write_biases(model, layout, values.astype(np.float32))
            sample = sampler.draw()
            total = clipped_sum(model, recorder, layout, records, sample, plan, noise, token_budget)
            gradient = noise.release(total) / divisor
            values, state = _descend(values, gradient, plan, state)
            if progress is not None:
                progress(step + 1, plan.steps_per_round)
    return values.astype(np.float32) - biases, state


def clipped_sum(
    model: nn.Module,
    recorder: PerRecordGradients,
    layout: BiasLayout,
    records: PrivateRecords,
    sample: NDArray[np.int64],
    plan: Plan,
    noise: Noise,
    token_budget: int,
) -> NDArray[np.int64]:
    """The sum [P], on the noise's grid, of the sampled units' clipped gradients.

    A unit's records are summed before they are clipped. An empty sample gives zeros.
    """
    total = np.zeros(layout.size, dtype=np.int64)
    pending: dict[int, NDArray[np.float32]] = {}
    waiting = {int(unit): len(records.units[unit]) for unit in sample}
    owner = {int(record): int(unit) for unit in sample for record in records.units[unit]}
    for batch, rows in gradient_rows(model, recorder, records, sorted(owner), token_budget):
        complete = []
        for record, row in zip(batch, rows, strict=True):
            unit = owner[record]
            waiting[unit] -= 1
            summed = pending.pop(unit) + row if unit in pending else row
            if waiting[unit]:
                pending[unit] = summed
            else:
                complete.append(summed)
        if complete:
            clipped = clip(np.stack(complete), plan.clipping, plan.clipping_norm)
            total += noise.round_toward_zero(clipped).sum(axis=0)
    return total


def gradient_rows(
    model: nn.Module,
    recorder: PerRecordGradients,
    records: PrivateRecords,
    chosen: Sequence[int],
    token_budget: int,
) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
    """Micro-batches of the chosen records, each with its gradient rows [B, P]."""
    canonical = records.canonical_rows
    for batch in micro_batches(chosen, records.lengths, canonical, token_budget):
        full = filled(batch, canonical)
        with recorder.records(len(full)):
            rows = recorder.rows(records.losses(model, full))[: len(batch)]
        yield batch, rows.cpu().numpy()


def _descend(
    values: Vector, gradient: Vector, plan: Plan, state: OptimizerState
) -> tuple[Vector, OptimizerState]:
    """One step of SGD or Adam on a noised gradient [P], at a rate that falls to 0 with the plan."""
    step = state.step + 1
    rate = plan.learning_rate * max(0.0, 1 - state.step / plan.steps)
    if plan.optimizer == "sgd":
        return values - rate * gradient, OptimizerState(step)
    first = np.zeros_like(gradient) if state.first is None else state.first
    second = np.zeros_like(gradient) if state.second is None else state.second
    first = BETA_FIRST * first + (1 - BETA_FIRST) * gradient
    second = BETA_SECOND * second + (1 - BETA_SECOND) * gradient**2
    unbiased = first / (1 - BETA_FIRST**step)
    scale = np.sqrt(second / (1 - BETA_SECOND**step)) + ADAM_EPSILON
    return values - rate * unbiased / scale, OptimizerState(step, first, second)
