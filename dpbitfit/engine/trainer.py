"""Private training of a model's biases in one process: no Flower, no ledger, no policy.

For a researcher who holds the records. A site that answers a coordinator needs the
guard (``docs/design.md``): this counts one plan, and forgets it with the process.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any, get_args

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
from dpbitfit.faults import shown
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
    must be public but the records themselves, and ``loss`` must treat records independently. What
    of that a few probes can show is checked; a loss that only looks at others where a record is
    unlike all probes passes, and breaks the guarantee.

    Use::

        trainer = PrivateTrainer(model, loss, 2000, probes=range(2000, 2008), declared_size=2000)
        for step in trainer:
            print(step)
        print(trainer.epsilon, trainer.trained)

    To stop and go on later, pickle the trainer, with a ``loss`` that is a function of a module: its
    pickle holds the model, the steps taken and the optimizer's state. Go on from the newest alone:
    steps that are taken again from an older one are further releases, which it does not count.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        records: int,
        *,
        probes: Iterable[int],
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
        biases: weights of ``nn.Linear`` (a head's, an adapter's); with some, no bias needs to.
        The learning rate decays linearly to zero. ``micro_batch`` is how many tokens, or without
        lengths records, are computed at a time, in the check too. ``ranks`` are processes that
        train together, each with the same arguments and a device of its own.

        The model is frozen and set to ``eval()``. Raises ModelError where it cannot be trained
        privately, InputError for a setting that cannot be used, AccountingError for a target
        that no noise reaches.
        """
        declared_size = _whole("declared_size", declared_size)
        micro_batch = _whole("micro_batch", micro_batch)
        _require_kind("clipping", clipping, Clipper)
        _require_kind("optimizer", optimizer, Optimizer)
        probes = _indices(probes)
        if not probes or probes[0] < records:
            raise InputError(
                f"probes must be indices of public records, from {records} on: "
                "a check on private ones would depend on them"
            )
        names = range(records) if units is None else _names(units)
        if len(names) != records:
            raise InputError(f"units must name one unit for each of the {records} records")
        padded = np.ones(probes[-1] + 1, np.int64) if lengths is None else np.array(lengths)
        if len(padded) <= probes[-1]:
            raise InputError("lengths must name one length for each index, the probes' included")
        if min(padded) < 1:
            raise InputError("lengths must be 1 or more")
        if batches.has_few_shapes(model) and not {*padded[:records]} <= {*padded[probes]}:
            raise InputError(
                "on this device every length needs a probe: a shape that was not checked may be "
                "computed otherwise"
            )
        self._model, self._declared_size, self._micro_batch = model, declared_size, micro_batch
        self._ranks = ranks
        self._layout, canonical_rows = check_gradients(
            model,
            select_biases(model.eval(), train_also, few_will_do=bool(train_also)),
            lambda chosen: loss(model, [probes[place] for place in chosen]),
            padded[probes],
            most_tokens=micro_batch,
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
    def trained(self) -> tuple[str, ...]:
        """The names of the parameters that train, in the model."""
        return self._layout.names

    @property
    def noise_multiplier(self) -> float:
        """The noise's standard deviation over the clipper's sensitivity."""
        return self._phase.noise.multiplier

    @property
    def epsilon(self) -> float:
        """What the steps so far cost, as an upper bound at ``delta``, where their number was fixed.

        Who stops because of a result has spent ``planned_epsilon`` (``docs/accounting.md``). It is
        computed anew at each number of steps, by three accountants, in about a second.
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


def _whole(name: str, value: object) -> int:
    """A whole number from 1; InputError, with its name, for anything else."""
    try:
        number = index(value)  # type: ignore[arg-type]
    except TypeError:
        number = 0
    if number < 1:
        raise InputError(f"{name} must be a whole number of at least 1, not {shown(value)}")
    return number


def _indices(probes: Iterable[int]) -> list[int]:
    """The probes, ascending; InputError where one is no whole number."""
    try:
        return sorted(map(index, probes))
    except TypeError as error:
        raise InputError(f"probes must be whole numbers, the indices of records: {error}") from None


def _require_kind(name: str, value: object, kinds: Any) -> None:
    """InputError for a value that is of none of an annotated union's kinds."""
    known: tuple[type, ...] = get_args(get_args(kinds)[0])
    if not isinstance(value, known):
        names = " or ".join(kind.__name__ for kind in known)
        raise InputError(f"{name} must be {names}, not {shown(value)}")


def _names(units: Sequence[Hashable]) -> list[Hashable]:
    """The unit of each record: of equal names one. InputError where one is missing."""
    # A tensor's values are objects of which no two are equal as keys.
    names = [unit.item() if isinstance(unit, Tensor) else unit for unit in units]
    if any(name is None or name != name for name in names):
        raise InputError("units must name one unit for each record, and a name is missing")
    return names
