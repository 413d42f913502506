"""Private training of any model's biases in one process: no Flower, no ledger, no policy.

For a researcher who holds the records. A site that answers a coordinator needs the
guard (``docs/design.md``): this counts one plan, and forgets it with the process.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from dpbitfit.accounting.calibration import calibrate
from dpbitfit.accounting.composition import epsilon
from dpbitfit.engine import batches
from dpbitfit.engine.biases import read_biases, select_biases
from dpbitfit.engine.clipping import AbadiClipping, Clipper
from dpbitfit.engine.noise import DiscreteGaussianNoise
from dpbitfit.engine.optimizers import Adam, Optimizer, OptimizerState
from dpbitfit.engine.ranks import Ranks
from dpbitfit.engine.selfcheck import check_gradients
from dpbitfit.engine.training import train_round
from dpbitfit.errors import BudgetError, InputError
from dpbitfit.phases import BiasPhase

# The loss [B] of each of the records with these indices, from that record and the model alone.
Loss = Callable[[nn.Module, list[int]], Tensor]


@dataclass(frozen=True)
class _Records:
    """Records that only their loss knows; see ``training.PrivateRecords``."""

    loss: Loss
    lengths: NDArray[np.int64]
    units: Sequence[NDArray[np.int64]]
    canonical_rows: int

    def losses(self, model: nn.Module, records: Sequence[int]) -> Tensor:
        return self.loss(model, list(records))


class PrivateTrainer:
    """DP-SGD or DP-Adam on the biases of ``model``, within a target that is fixed beforehand.

    *Formal guarantee*: the model after all ``steps`` is (``target_epsilon``, ``delta``)-
    differentially private under adding or removing one unit. For that everything given here
    must be public but the records themselves, and ``loss`` must treat records independently.

    Use::

        trainer = PrivateTrainer(model, loss, 2000, probes=range(2000, 2008), declared_size=2000)
        for step in trainer:
            print(step, trainer.epsilon)
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        records: int,
        *,
        probes: Sequence[int],
        declared_size: int,
        units: Sequence[Hashable] | None = None,
        lengths: Sequence[int] | None = None,
        train_also: Sequence[str] = (),
        target_epsilon: float = 8.0,
        delta: float = 1e-5,
        steps: int = 100,
        sampling_rate: float = 0.1,
        clipping: Clipper = AbadiClipping(norm=1.0),
        optimizer: Optimizer = Adam(learning_rate=1e-2),
        micro_batch: int = 256,
        ranks: Ranks | None = None,
    ) -> None:
        """Check the model on public ``probes``, and calibrate the noise to the target.

        ``loss(model, indices)`` returns one loss for each index [B]. The private records are
        0 to ``records`` - 1; ``probes`` are indices from ``records`` on, of a few public or
        made-up records (8 will do; on a GPU some of each length), on which the gradients are
        checked. ``declared_size`` is a public size, about the number of units: the noised sum is
        divided by it times ``sampling_rate``, because a divisor made of the records would give
        their number away.
        ``units`` [records] names each record's unit of privacy; without it each is its own.
        ``lengths`` are the padded lengths of all indices, probes included, each of its record
        alone: a batch has one length. ``train_also`` names parameters to train beside the
        biases (a head's weight). The learning rate decays linearly to zero. ``micro_batch``
        is how many tokens, or without lengths records, are computed at a time. ``ranks`` are
        processes that train together, each with the same arguments and a device of its own.

        The model is frozen and set to ``eval()``. Raises ModelError where it cannot be trained
        privately, InputError for a setting that cannot be used, AccountingError for a target
        that no noise reaches.
        """
        if declared_size < 1:
            raise InputError(f"declared_size must be at least 1, not {declared_size}")
        if not len(probes) or min(probes) < records:
            raise InputError(
                f"probes must be indices of public records, from {records} on: "
                "a check on private ones would depend on them"
            )
        names = range(records) if units is None else _names(units)
        if len(names) != records:
            raise InputError(f"units must name one unit for each of the {records} records")
        padded = np.ones(max(probes) + 1, np.int64) if lengths is None else np.array(lengths)
        if len(padded) <= max(probes):
            raise InputError("lengths must name one length for each index, the probes' included")
        if min(padded) < 1 or micro_batch < 1:
            raise InputError("lengths and micro_batch must be 1 or more")
        if batches.has_few_shapes(model) and not {*padded[:records]} <= {*padded[list(probes)]}:
            raise InputError(
                "on this device every length needs a probe: a shape that was not checked may be "
                "computed otherwise"
            )
        self._model, self._declared_size, self._micro_batch = model, declared_size, micro_batch
        self._ranks = ranks
        self._layout, canonical_rows = check_gradients(
            model,
            select_biases(model.eval(), train_also),
            lambda chosen: loss(model, [probes[place] for place in chosen]),
            padded[list(probes)],
        )
        members: dict[Hashable, list[int]] = {}
        for record, unit in enumerate(names):
            members.setdefault(unit, []).append(record)
        self._records = _Records(
            loss, padded, [np.array(unit, np.int64) for unit in members.values()], canonical_rows
        )
        sigma = calibrate(target_epsilon, delta, sampling_rate, steps)
        self._delta = delta
        self._phase = BiasPhase.checked(
            rounds=steps,
            steps_per_round=1,
            sampling_rate=sampling_rate,
            clipping=clipping,
            noise=DiscreteGaussianNoise(multiplier=sigma),
            optimizer=optimizer,
        )
        self._state = OptimizerState()
        self.steps_taken = 0

    @property
    def noise_multiplier(self) -> float:
        """The noise's standard deviation over the clipping norm."""
        return self._phase.noise.multiplier

    @property
    def epsilon(self) -> float:
        """What the steps so far cost, as an upper bound at ``delta``, where their number was fixed.

        Who stops because of a result has spent ``planned_epsilon`` (``docs/accounting.md``).
        """
        return epsilon({self._phase.mechanism: self.steps_taken}, self._delta).epsilon

    @property
    def planned_epsilon(self) -> float:
        """What all steps cost, as an upper bound at ``delta``: at most the target."""
        return epsilon(dict(self._phase.counts), self._delta).epsilon

    def __iter__(self) -> Iterator[int]:
        """Take the steps that are left, one at a time; yields how many have been taken."""
        while self.steps_taken < self._phase.steps:
            yield self.step()

    def run(self) -> None:
        """Take all the steps that are left."""
        for _ in self:
            pass

    def step(self) -> int:
        """Take one noisy step, which moves the model's biases; returns how many have been taken.

        A step counts as spent from its beginning, however it ends. Raises BudgetError
        when all have been taken.
        """
        if self.steps_taken >= self._phase.steps:
            raise BudgetError(f"all {self._phase.steps} steps have been taken")
        self.steps_taken += 1
        _, self._state = train_round(
            self._model,
            self._layout,
            self._records,
            self._phase,
            self._declared_size,
            read_biases(self._model, self._layout),
            self._state,
            self._micro_batch,
            ranks=self._ranks,
        )
        return self.steps_taken


def _names(units: Sequence[Hashable]) -> list[Hashable]:
    """The unit of each record: of equal names one. InputError where one is missing."""
    # A tensor's values are objects of which no two are equal as keys.
    names = [unit.item() if isinstance(unit, Tensor) else unit for unit in units]
    if any(name is None or name != name for name in names):
        raise InputError("units must name one unit for each record, and a name is missing")
    return names
