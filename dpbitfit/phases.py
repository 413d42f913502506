"""The phases that a plan is made of: what each trains, how, and what it costs.

    class-sums   the head, from noised sums of the features of each class, in one round
    head         the head, by full-batch gradient descent on the frozen features
    biases       the biases, and the head where it trains along, by DP-SGD on samples
    dp-zero      the same by DPZero: from losses along random directions, on samples

In the first two a site sends its noised sum, and the coordinator takes one step with
the pooled sums. In the others a site takes steps of its own: it sends the change, or the
noised numbers from which the coordinator takes the same steps again.
To add a phase: a class here, with a ``kind`` of its own, and its name in ``Phase``.
"""

import math
from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from dpbitfit.accounting.mechanism import Counts, Mechanism, merged
from dpbitfit.engine.clipping import AbadiClipping, Clipper, FlatClipper
from dpbitfit.engine.directions import Directions
from dpbitfit.engine.estimators import BiasGradients, DirectionalDerivatives, Estimator
from dpbitfit.engine.linear_head import GRID, LinearHead
from dpbitfit.engine.noise import Noise, NoiseSource
from dpbitfit.engine.optimizers import Adam, Optimizer, OptimizerState, Sgd
from dpbitfit.schema import Part, variants_of
from dpbitfit.validate import ClippingNorm, Prior, Rounds, SamplingRate, StepsPerRound, whole

Once = Annotated[int, whole(1, 1, "Once.")]
Trains = Literal["head", "biases", "all"]
Matrix = NDArray[np.float64]
Vector = NDArray[np.float32]


class _Phase(Part):
    """Rounds of noisy steps, each one Gaussian mechanism of one sampling rate."""

    pools: ClassVar[bool]  # whether sites send noised sums, for one step of the coordinator's
    rounds: Rounds
    steps_per_round: StepsPerRound
    sampling_rate: SamplingRate
    trains: Trains
    noise: Annotated[Noise, Field(description="fast-insecure is for experiments only.")]

    def places(self, parameters: int, head: LinearHead | None) -> NDArray[np.int64]:
        """Where what it trains lies in the packed vector [P]; all of it without a ``head``."""
        everything = np.arange(parameters)
        if self.trains == "all" or head is None:
            return everything
        weight = everything[head.weight]
        return weight if self.trains == "head" else np.delete(everything, weight)

    def released_size(self, parameters: int) -> int:
        """How many values a site sends of a round in which ``parameters`` [P] train."""
        return parameters

    @property
    def steps(self) -> int:
        """Noisy steps over all rounds."""
        return self.rounds * self.steps_per_round

    @property
    def mechanism(self) -> Mechanism:
        """One noisy step, as it is accounted."""
        return Mechanism(self.noise.multiplier, self.sampling_rate)

    @property
    def round_counts(self) -> Counts:
        """One round's noisy steps, as they are accounted and recorded."""
        return ((self.mechanism, self.steps_per_round),)

    @property
    def counts(self) -> Counts:
        """All of its noisy steps, as they are accounted and recorded."""
        return ((self.mechanism, self.steps),)


class _HeadPhase(_Phase):
    """Every unit takes part in each step, and every round is one step with the pooled sums."""

    pools: ClassVar[bool] = True
    steps_per_round: Once = 1
    sampling_rate: Annotated[SamplingRate, Field(ge=1)] = 1.0
    trains: Literal["head"] = "head"

    @property
    def norm(self) -> float:
        """The Frobenius norm to which a unit's sum [K, d] is clipped."""
        raise NotImplementedError

    def source(self) -> NoiseSource:
        """What draws the noise of a step, for sums on ``linear_head.GRID``."""
        return self.noise.source(self.norm, GRID)

    def largest_update(self, parameters: int, declared_size: int) -> float:
        """A public bound on the L2 norm of an honest site's noised sum."""
        noise = self.noise.multiplier * math.sqrt(parameters)
        return 10 * self.norm * (declared_size + noise)


class ClassSums(_HeadPhase):
    """Each row of the head becomes the noised sum of its class's features, and a prior.

    The prior is the head as it is, which at first is the embedded label names. Row k of the
    new head is ``B_k + prior * sigma * sqrt(sites * d) * h_k``, brought to norm 1, where
    ``B`` is the sites' sum: the noisier it is, the more the public name counts. Nothing
    counts labels, because the rows' norms are lost.
    """

    kind: Literal["class-sums"] = "class-sums"
    rounds: Once = 1
    prior: Prior = 0.5

    @property
    def norm(self) -> float:
        """A record's features have a norm of at most 1."""
        return 1.0

    def step(
        self, head: Matrix, total: Matrix, sites: int, declared: int, state: OptimizerState
    ) -> tuple[Matrix, OptimizerState]:
        """The new head [K, d] from the ``sites``' pooled sums [K, d]."""
        noise = self.noise.multiplier * math.sqrt(sites * head.shape[1])
        return _unit_rows(total + self.prior * noise * _unit_rows(head)), state

    def largest_distance(self, declared_size: int) -> float:
        """Between two rows of norm 1, one value differs by at most 2."""
        return 2.0


class HeadDescent(_HeadPhase):
    """Gradient descent of the head on all records, one pooled step a round.

    The gradient is that of the cross-entropy over the scale of the logits, so that a
    record's has the norm of ``softmax - onehot`` and the clipping norm is in that unit.
    """

    kind: Literal["head"] = "head"
    rounds: Rounds = 20
    # With any noise multiplier, such norms make noise that ``linear_head.GRID`` holds.
    clipping_norm: Annotated[ClippingNorm, Field(ge=0.05, le=2)] = 1.0
    optimizer: Optimizer = Field(Sgd(learning_rate=32.0), description="Of the pooled steps.")

    @property
    def norm(self) -> float:
        """The clipping norm."""
        return self.clipping_norm

    def step(
        self, head: Matrix, total: Matrix, sites: int, declared: int, state: OptimizerState
    ) -> tuple[Matrix, OptimizerState]:
        """The new head [K, d] from the pooled sums [K, d] of sites of ``declared`` units."""
        mean = (total / declared).reshape(-1)
        values, state = self.optimizer.descend(head.reshape(-1), mean, state, self.steps)
        return values.reshape(head.shape), state

    def largest_distance(self, declared_size: int) -> float:
        """A public bound on how far honest training takes one value over the whole phase."""
        mean = self.norm * (1 + self.noise.multiplier / declared_size)
        return 10 * self.steps * self.optimizer.usual_step(mean, 1)


class SampledPhase(_Phase):
    """Steps of a site's own, on the biases, and on the head where ``trains`` is all.

    Each step is one Gaussian mechanism on a Poisson sample of the units, for adding or
    removing one of them.
    """

    pools: ClassVar[bool] = False
    sends_rows: ClassVar[bool] = False  # its steps' noised rows, in the place of the change
    kind: str
    rounds: Rounds = 12
    steps_per_round: StepsPerRound = 5
    sampling_rate: SamplingRate = 0.2
    trains: Annotated[Literal["all", "biases"], Field(description="all: the head too.")] = "all"
    estimator: Estimator
    clipping: Clipper = Field(AbadiClipping(), description="What bounds a unit's gradient.")
    optimizer: Optimizer

    def change(self, released: Vector, step: int, directions: Directions, size: int) -> Vector:
        """The change [size] for which a site's message of a round stands.

        The round begins at ``step`` of the phase, from 0.
        """
        return released

    def largest_update(self, parameters: int, declared_size: int) -> float:
        """A public bound on the L2 norm of an honest site's change of one round."""
        return 10 * self.steps_per_round * self._usual_step(parameters, declared_size)

    def largest_distance(self, declared_size: int) -> float:
        """A public bound on how far honest training takes one value over the whole phase.

        Ten steps of the usual size for each of the phase's, at the first learning rate.
        """
        return 10 * self.steps * self._usual_step(1, declared_size)

    def _usual_step(self, parameters: int, declared_size: int) -> float:
        noise = self.noise.multiplier * math.sqrt(parameters)
        mean = self.clipping.largest * (1 + noise / (self.sampling_rate * declared_size))
        return self.optimizer.usual_step(mean, parameters)


class BiasPhase(SampledPhase):
    """DP-SGD on exact gradients of single records."""

    kind: Literal["biases"] = "biases"
    estimator: BiasGradients = BiasGradients()
    optimizer: Optimizer = Field(Adam(), description="At the site.")


class DpZeroPhase(SampledPhase):
    """DPZero: descent on how losses change along public random directions (``zero_order``).

    A site sends K noised numbers a step, from which the coordinator takes its steps again:
    they have no memory but their number. The clipping norm is in the unit of a gradient's.
    """

    sends_rows: ClassVar[bool] = True
    kind: Literal["dp-zero"] = "dp-zero"
    estimator: DirectionalDerivatives = DirectionalDerivatives()
    # A row has no layers and kinds of parameters, by which it could be clipped in groups.
    clipping: FlatClipper = Field(AbadiClipping(), description="What bounds a unit's row.")
    optimizer: Sgd = Field(Sgd(), description="At the site, and again at the coordinator.")

    def released_size(self, parameters: int) -> int:
        """One value for each direction of each step, however many train."""
        return self.steps_per_round * self.estimator.directions

    def change(self, released: Vector, step: int, directions: Directions, size: int) -> Vector:
        """The change [size] to which the steps of a round lead from zero."""
        values, state = np.zeros(size), OptimizerState(step)
        for row in released.reshape(self.steps_per_round, self.estimator.directions):
            gradient = directions.gradient(state.step, row, size)
            values, state = self.optimizer.descend(values, gradient, state, self.steps)
        return values.astype(np.float32)

    def largest_update(self, parameters: int, declared_size: int) -> float:
        """A public bound on the L2 norm of an honest site's noised rows of one round."""
        noise = self.noise.multiplier * math.sqrt(self.estimator.directions)
        mean = self.clipping.sensitivity * (1 + noise / (self.sampling_rate * declared_size))
        return 10 * math.sqrt(self.steps_per_round) * mean


Phase = Annotated[ClassSums | HeadDescent | BiasPhase | DpZeroPhase, Field(discriminator="kind")]
_KINDS = variants_of(Phase)
PHASES = tuple(_KINDS)
# The others take every unit, once a round.
SAMPLED = tuple(kind for kind, phase in _KINDS.items() if issubclass(phase, SampledPhase))


def counts_of(phases: Iterable[Phase]) -> Counts:
    """All noisy steps of some phases, as they are accounted and recorded."""
    return merged(count for phase in phases for count in phase.counts)


def _unit_rows(matrix: Matrix) -> Matrix:
    """Rows of norm 1; a row of zeros stays."""
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    rows: Matrix = matrix / np.where(lengths > 0, lengths, 1.0)
    return rows
