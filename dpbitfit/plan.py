"""What both sides agree on before the first step: a plan, public in every field.

A plan says what is trained (model, data set, unit of privacy, task) and a sequence of
phases, each of which says how. Fields, types, bounds, defaults and help are declared
here and on the parts that a plan is made of, and nowhere else: options, run
configuration, the policy's limits and reports follow from them. It travels as its
canonical JSON, and those bytes are what is digested and signed.
"""

import hashlib
import json
import math
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, ValidationError, model_validator

from dpbitfit.accounting.composition import Counts, Mechanism, merged
from dpbitfit.engine.clipping import AbadiClipping, Clipper
from dpbitfit.engine.estimators import BiasGradients, Estimator
from dpbitfit.engine.noise import Noise
from dpbitfit.engine.optimizers import Adam, Optimizer
from dpbitfit.errors import InputError, ProtocolError
from dpbitfit.faults import faults
from dpbitfit.protocol.codec import CODECS, FLOAT32, Codec
from dpbitfit.schema import Part, Scalar
from dpbitfit.validate import Delta, Evaluations, Rounds, SamplingRate, StepsPerRound, one_of

LONGEST = 1 << 15  # bytes of a plan's JSON
MOST_PHASES = 16

Text = Annotated[str, StringConstraints(strict=True, max_length=200)]


class BiasPhase(Part):
    """DP-SGD on the biases, and on the head where the task trains one.

    Each step is one Gaussian mechanism on a Poisson sample of the units, for adding or
    removing one of them.
    """

    kind: Literal["biases"] = "biases"
    rounds: Rounds = 12
    steps_per_round: StepsPerRound = 5
    sampling_rate: SamplingRate = 0.2
    estimator: Estimator = BiasGradients()
    clipping: Clipper = Field(AbadiClipping(), description="What bounds a unit's gradient.")
    noise: Annotated[Noise, Field(description="fast-insecure is for experiments only.")]
    optimizer: Optimizer = Field(Adam(), description="At the site.")

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
        mean = self.clipping.sensitivity * (1 + noise / (self.sampling_rate * declared_size))
        return self.optimizer.usual_step(mean, parameters)


Phase = BiasPhase


class ModelIdentity(Part):
    """A model by the name that a site's policy knows, and what it must turn out to be there.

    ``digest`` is over its weights and settings, ``layout`` over what of it trains (SHA-256).
    """

    name: Text = "minilm"
    digest: Text
    layout: Text


class TaskChoice(Part):
    """A task by its name, and its own settings, which the task checks."""

    name: Text = "text-classification"
    settings: dict[Text, Scalar] = Field(default_factory=dict)


class SiteMetrics(Part):
    """What sites measure, ``evaluations`` times, on records that they keep for that."""

    names: tuple[Text, ...] = ()
    evaluations: Evaluations = 0


class Plan(Part):
    """One training plan. Nothing in it may be derived from private records.

    ``dataset`` and the model's name are those by which a site knows them ("" where it has
    one data set only); ``unit`` is ``record`` or the column that names the person; every
    epsilon is at ``delta``, for adding or removing one unit.
    """

    dataset: Text
    unit: Text
    delta: Delta
    model: ModelIdentity
    task: TaskChoice = TaskChoice()
    phases: Annotated[tuple[Phase, ...], Field(min_length=1, max_length=MOST_PHASES)]
    site_metrics: SiteMetrics = SiteMetrics()
    codec: Annotated[str, one_of(tuple(CODECS))] = FLOAT32.name

    @model_validator(mode="after")
    def _measures_at_most_once_a_round(self) -> Self:
        if self.site_metrics.evaluations > self.rounds:
            raise ValueError("site_metrics.evaluations must be at most the rounds")
        return self

    @property
    def updates(self) -> Codec:
        """How a site's update of a round is written."""
        return CODECS[self.codec]

    @property
    def rounds(self) -> int:
        """Rounds over all phases."""
        return sum(phase.rounds for phase in self.phases)

    @property
    def counts(self) -> Counts:
        """All noisy steps of the plan, as they are accounted and recorded."""
        return merged(count for phase in self.phases for count in phase.counts)

    def phase(self, number: int) -> Phase:
        """The phase of a round, from 1; ProtocolError past the plan's last."""
        for phase in self.phases:
            if 0 < number <= phase.rounds:
                return phase
            number -= phase.rounds
        raise ProtocolError("the plan has no such round")

    def largest_distance(self, declared_size: int) -> float:
        """A public bound on how far honest training takes one value over the whole plan."""
        return sum(phase.largest_distance(declared_size) for phase in self.phases)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read a plan from its canonical JSON.

        Raises ProtocolError, naming the field, where one is unknown, missing or of a wrong
        type, and for any other spelling of the same plan; InputError for one out of range.
        """
        if len(data) > LONGEST:
            raise ProtocolError(f"the plan is longer than {LONGEST} bytes")
        try:
            plan = cls.model_validate_json(data)
        except ValidationError as error:
            fault = next(faults(error, cls))
            kind = ProtocolError if fault.is_misshapen else InputError
            raise kind(f"the plan's {fault}") from error
        if plan.encode() != data:
            lacking = _lacking(json.loads(plan.encode()), json.loads(data))
            raise ProtocolError(
                f"the plan lacks {lacking!r}" if lacking else "the plan is not canonical JSON"
            )
        return plan

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the plan's canonical JSON; both sides compare it."""
        return hashlib.sha256(self.encode()).hexdigest()


def _lacking(whole: object, given: object, where: str = "") -> str:
    """The first field, dotted, that stands in one JSON tree and not in the other."""
    if isinstance(whole, dict) and isinstance(given, dict):
        for name, value in whole.items():
            place = f"{where}.{name}" if where else name
            if name not in given:
                return place
            if deeper := _lacking(value, given[name], place):
                return deeper
    if isinstance(whole, list) and isinstance(given, list):
        for number, (value, other) in enumerate(zip(whole, given, strict=True)):
            if deeper := _lacking(value, other, f"{where}.{number}"):
                return deeper
    return ""
