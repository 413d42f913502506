"""One site's part of a round: DP-SGD on the biases, step by step.

    sampled units -> gradient rows -> clipped, on the grid -> one integer sum
                  -> one noise draw -> public divisor -> optimizer

*Formal guarantee*: each step is the Gaussian mechanism with the plan's noise
multiplier on a Poisson sample at the plan's rate, for adding or removing one
unit; what follows the noise is post-processing. A unit's clipped row is a function
of that unit and the biases alone, to the bit (see ``batches``), so that as integers
on the noise's grid the sum with a unit less the sum without it is that row.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dpbitfit.engine.biases import BiasLayout, write_biases
from dpbitfit.engine.clipping import AttachedClipper
from dpbitfit.engine.determinism import deterministic
from dpbitfit.engine.devices import kinds_of
from dpbitfit.engine.directions import Directions
from dpbitfit.engine.estimators import AttachedEstimator
from dpbitfit.engine.memory import MOST_VALUES, in_micro_batches
from dpbitfit.engine.noise import NoiseSource, RandomSource
from dpbitfit.engine.optimizers import OptimizerState
from dpbitfit.engine.ranks import Ranks
from dpbitfit.engine.sampling import PoissonSampler
from dpbitfit.engine.split import devices_of, joined
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
    token_budget: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    directions: Directions | None = None,
    ranks: Ranks | None = None,
) -> tuple[NDArray[np.float32], OptimizerState]:
    """Train one round from ``biases`` [P]; returns what the phase releases, and the new state.

    Every one of ``phase.steps_per_round`` steps releases one noised sum, divided
    by ``phase.sampling_rate * declared_size``: a public constant, never the
    number of records. ``ranks`` are the processes that share the work, each with the same
    arguments. Raises InputError when ``declared_size`` is not positive, and without
    ``directions`` in a phase that looks along some.
    """
    if declared_size < 1:
        raise InputError(f"the declared size must be at least 1, not {declared_size}")
    clipper: AttachedClipper = phase.clipping.attach(model, layout, state.norms)
    noise = phase.noise.source(clipper.sensitivity)
    sampler = PoissonSampler(len(records.units), phase.sampling_rate, RandomSource())
    divisor = phase.sampling_rate * declared_size
    values = biases.astype(np.float64)  # [P]
    ranks = ranks or Ranks()
    kinds = kinds_of(devices_of(model))
    ranks.require_alike(layout.digest, biases.tobytes(), *_facts(records), kinds)
    rows = []  # [D] each, where the phase sends them
    model.eval()  # dropout off
    with deterministic(), phase.estimator.attach(model, layout, directions) as estimator:
        for step in range(phase.steps_per_round):
            write_biases(model, layout, values.astype(np.float32))
            estimator.begin(state.step)
            sample = ranks.share(ranks.from_first(sampler.draw))
            add_up = partial(clipped_sum, model, estimator, records, sample, clipper, noise)
            total = ranks.total(partial(add_up, token_budget))
            released = ranks.from_first(partial(noise.release, total))
            row, clipper = clipper.read(released / divisor)
            if phase.sends_rows:
                rows.append(row.astype(np.float32))
            gradient = estimator.gradient(row)
            values, state = phase.optimizer.descend(values, gradient, state, phase.steps)
            if progress is not None:
                progress(step + 1, phase.steps_per_round)
    write_biases(model, layout, values.astype(np.float32))
    sent = np.concatenate(rows) if rows else values.astype(np.float32) - biases
    return sent, replace(state, norms=clipper.norms)


def _facts(records: PrivateRecords) -> tuple[object, ...]:
    """What must be the same of them in all processes that share the units."""
    held = hashlib.sha256(records.lengths.tobytes())
    for unit in records.units:
        held.update(len(unit).to_bytes(8, "big") + unit.tobytes())
    return len(records.units), records.canonical_rows, held.hexdigest()


def clipped_sum(
    model: nn.Module,
    estimator: AttachedEstimator,
    records: PrivateRecords,
    sample: NDArray[np.int64],
    clipper: AttachedClipper,
    noise: NoiseSource,
    token_budget: int | None = None,
) -> NDArray[np.int64]:
    """The sum [D + appended], on the noise's grid, of the sampled units' clipped rows.

    A unit's records are summed before they are clipped. An empty sample gives zeros. A
    micro-batch has at most ``token_budget`` tokens, or what the device allows (``memory``).
    """
    parts, width = estimator.parts, estimator.width + clipper.appended
    split = clipper.of_parts(parts) if len(parts) > 1 else None
    clipped = split or [(clipper, np.arange(width))]  # whole rows, on the first device
    sums = []
    for (own, places), part in zip(clipped, parts, strict=False):
        zeros = torch.zeros(len(places), dtype=torch.int64, device=part.device)
        sums.append(UnitSum(records.units, sample, own, noise, zeros))

    def add(batch: list[int], full: list[int]) -> None:
        rows = estimator.rows_in_parts(partial(records.losses, model, full), len(full))
        if split is None:
            rows = [joined(rows, parts)]
        ready = [own.ready(batch, of[: len(batch)]) for own, of in zip(sums, rows, strict=True)]
        for count in ready:  # in none, where one of them has failed
            count()

    most_rows = MOST_VALUES // estimator.width
    for _ in in_micro_batches(model, records, sums[0].records, add, token_budget, most_rows):
        pass
    total = np.empty(width, np.int64)
    for (_, places), summed in zip(clipped, sums, strict=True):
        total[places] = summed.total()
    return total
