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
from functools import partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dpbitfit.engine import batches
from dpbitfit.engine.batches import deterministic, filled, micro_batches
from dpbitfit.engine.biases import BiasLayout, write_biases
from dpbitfit.engine.clipping import Clipper
from dpbitfit.engine.directions import Directions
from dpbitfit.engine.estimators import AttachedEstimator
from dpbitfit.engine.noise import NoiseSource, RandomSource
from dpbitfit.engine.optimizers import OptimizerState
from dpbitfit.engine.sampling import PoissonSampler
from dpbitfit.engine.summing import UnitSum
from dpbitfit.errors import InputError
from dpbitfit.phases import SampledPhase


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


def train_round(
    model: nn.Module,
    layout: BiasLayout,
    records: PrivateRecords,
    phase: SampledPhase,
    declared_size: int,
    biases: NDArray[np.float32],
    state: OptimizerState,
    token_budget: int = batches.TOKEN_BUDGET,
    progress: Callable[[int, int], None] | None = None,
    directions: Directions | None = None,
) -> tuple[NDArray[np.float32], OptimizerState]:
    """Train one round from ``biases`` [P]; returns what the phase releases, and the new state.

    Every one of ``phase.steps_per_round`` steps releases one noised sum, divided
    by ``phase.sampling_rate * declared_size``: a public constant, never the
    number of records. Raises InputError when ``declared_size`` is not positive, and
    without ``directions`` in a phase that looks along some.
    """
    if declared_size < 1:
        raise InputError(f"the declared size must be at least 1, not {declared_size}")
    clipper = phase.clipping
    noise = phase.noise.source(clipper.sensitivity)
    sampler = PoissonSampler(len(records.units), phase.sampling_rate, RandomSource())
    divisor = phase.sampling_rate * declared_size
    values = biases.astype(np.float64)  # [P]
    rows = []  # [D] each, where the phase sends them
    model.eval()  # dropout off
    with deterministic(), phase.estimator.attach(model, layout, directions) as estimator:
        for step in range(phase.steps_per_round):
            write_biases(model, layout, values.astype(np.float32))
            estimator.begin(state.step)
            sample = sampler.draw()
            total = clipped_sum(model, estimator, records, sample, clipper, noise, token_budget)
            row = noise.release(total) / divisor
            if phase.sends_rows:
                rows.append(row.astype(np.float32))
            gradient = estimator.gradient(row)
            values, state = phase.optimizer.descend(values, gradient, state, phase.steps)
            if progress is not None:
                progress(step + 1, phase.steps_per_round)
    write_biases(model, layout, values.astype(np.float32))
    return np.concatenate(rows) if rows else values.astype(np.float32) - biases, state


def clipped_sum(
    model: nn.Module,
    estimator: AttachedEstimator,
    records: PrivateRecords,
    sample: NDArray[np.int64],
    clipper: Clipper,
    noise: NoiseSource,
    token_budget: int,
) -> NDArray[np.int64]:
    """The sum [D], on the noise's grid, of the sampled units' clipped rows.

    A unit's records are summed before they are clipped. An empty sample gives zeros.
    """
    device = next(model.parameters()).device
    zeros = torch.zeros(estimator.width, dtype=torch.int64, device=device)
    summed = UnitSum(records.units, sample, clipper, noise, zeros)
    for batch, rows in gradient_rows(model, estimator, records, summed.records, token_budget):
        summed.add(batch, rows)
    return summed.total()


def gradient_rows(
    model: nn.Module,
    estimator: AttachedEstimator,
    records: PrivateRecords,
    chosen: Sequence[int],
    token_budget: int,
) -> Iterator[tuple[list[int], Tensor]]:
    """Micro-batches of the chosen records, each with its rows [B, D], where the model lies."""
    canonical, few = records.canonical_rows, batches.has_few_shapes(model)
    for batch in micro_batches(chosen, records.lengths, canonical, token_budget, few):
        full = filled(batch, canonical, few)
        rows = estimator.rows(partial(records.losses, model, full), len(full))
        yield batch, rows[: len(batch)]
