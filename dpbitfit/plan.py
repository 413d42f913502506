"""What both sides agree on before the first step: a plan, public in every field.

A plan says what is trained (model, data set, unit of privacy, task) and a sequence of
phases, each of which says how. Fields, types, bounds, defaults and help are declared
here and on the parts that a plan is made of, and nowhere else: options, run
configuration, the policy's limits and reports follow from them. It travels as its
canonical JSON, and those bytes are what is digested and signed.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Self

from pydantic import Field, StringConstraints, ValidationError, model_validator

from dpbitfit.accounting.mechanism import Counts
from dpbitfit.engine.directions import Directions
from dpbitfit.errors import InputError, ProtocolError
from dpbitfit.faults import faults
from dpbitfit.phases import SAMPLED, Phase, counts_of
from dpbitfit.protocol.codec import CODECS, FLOAT32, Codec
from dpbitfit.schema import Part, Scalar, canonical
from dpbitfit.validate import Delta, Evaluations, one_of

LONGEST = 1 << 15  # bytes of a plan's JSON
MOST_PHASES = 16

Text = Annotated[str, StringConstraints(strict=True, max_length=200)]


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

    @model_validator(mode="after")
    def _trains_biases_in_one_way(self) -> Self:
        # What trains is what passed the check of that way: see ``tasks.attach``.
        if {phase.kind for phase in self.phases} >= set(SAMPLED):
            raise ValueError("phases must have biases or dp-zero, not both")
        return self

    @property
    def needs_gradients(self) -> bool:
        """Whether its model must have exact gradients of single records, or losses alone."""
        return all(phase.kind != "dp-zero" for phase in self.phases)

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
        return counts_of(self.phases)

    def phase(self, number: int) -> Phase:
        """The phase of a round, from 1; ProtocolError past the plan's last."""
        return self.locate(number).phase

    def locate(self, number: int) -> "Place":
        """Where in the plan a round is, from 1; ProtocolError past the plan's last."""
        for position, phase in enumerate(self.phases):
            if 0 < number <= phase.rounds:
                return Place(position, phase, number)
            number -= phase.rounds
        raise ProtocolError("the plan has no such round")

    def directions(self, run: str, site: str, position: int) -> Directions:
        """The public directions of a run at one site in the phase at a position, from 0.

        All that they follow from is known before a record is seen, and no message carries a
        seed: none can be chosen late.
        """
        public = ["directions", run, self.digest, site, position]
        return Directions(hashlib.sha256(canonical(public)).digest())

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


@dataclass(frozen=True)
class Place:
    """A round's phase, which of the plan's it is, from 0, and which of its rounds, from 1."""

    position: int
    phase: Phase
    round: int

    @property
    def step(self) -> int:
        """How many steps of the phase come before the round's first."""
        return (self.round - 1) * self.phase.steps_per_round


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
