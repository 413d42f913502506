"""What a site's policy lets one coordinator ask of one dataset."""

from collections.abc import Callable
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from dpbitfit.engine.clipping import CLIPPINGS
from dpbitfit.errors import PolicyError
from dpbitfit.faults import fault
from dpbitfit.phases import PHASES, DpZeroPhase, SampledPhase
from dpbitfit.plan import Plan
from dpbitfit.tasks.base import TaskSettings
from dpbitfit.tasks.text_classification.settings import Head
from dpbitfit.validate import (
    MOST_STEPS,
    DirectionCount,
    Epsilon,
    MaxLength,
    NoiseMultiplier,
    Rounds,
    SamplingRate,
    StepsPerRound,
    one_of,
)
from dpbitfit_client.policy.document import Table
from dpbitfit_client.policy.value_types import BiasDistance, NameIn

# Of a bias from its pretrained value, unless the policy says otherwise. A run may begin
# where another ended; and who makes a plan chooses its learning rate as well.
LEAST_DISTANCE, MOST_DISTANCE = 1.0, 10.0


def _different(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise fault("names one twice")
    return names


# Without a list of them. Never more than these: no policy may come to allow a later phase.
_UNNAMED = ("class-sums", "head", "biases")
_Choice = (Field(min_length=1), AfterValidator(_different))


def _at_most(name: str, value: Any, most: float) -> None:
    if not 0 < value <= most:
        raise PolicyError(f"the policy allows {name} up to {most:g}, not {value:g}")


def _at_least(name: str, value: float, least: float) -> None:
    if not value >= least:
        raise PolicyError(f"the policy allows {name} from {least:g}, not {value:g}")


def _among(name: str, choice: Any, allowed: tuple[str, ...]) -> None:
    if choice not in allowed:
        raise PolicyError(f"the policy does not allow the {name} {choice!r:.60}")


class Limits(Table):
    """What one coordinator may ask of one dataset.

    ``epsilon`` is its share of the budget, at the dataset's delta, over all its
    plans; the other numbers bound each single plan. ``max_length`` is in tokens;
    ``max_bias_distance`` is 0 where it follows from the plan; ``phases`` are the kinds that
    a plan may have, of which ``biases`` and ``dp-zero`` sample, and clip by one of ``clippings``;
    the latter only where it is named, and ``max_directions`` bounds its work.
    """

    epsilon: Epsilon = 0.0  # as read, where it is left out: then the dataset's
    min_noise_multiplier: NoiseMultiplier
    max_sampling_rate: SamplingRate
    max_steps_per_round: StepsPerRound
    max_rounds: Rounds
    models: Annotated[tuple[Annotated[str, NameIn("models")], ...], *_Choice]
    phases: Annotated[tuple[Annotated[str, one_of(PHASES)], ...], *_Choice] = _UNNAMED
    clippings: Annotated[tuple[Annotated[str, one_of(CLIPPINGS)], ...], *_Choice] = CLIPPINGS
    heads: Annotated[tuple[Annotated[str, one_of(get_args(Head))], ...], *_Choice] = get_args(Head)
    max_directions: DirectionCount = 64
    max_length: MaxLength = 128
    max_bias_distance: BiasDistance = 0.0

    @property
    def max_steps(self) -> int:
        """Noisy steps of the longest plan."""
        return self.max_rounds * self.max_steps_per_round

    def check(self, plan: Plan, settings: TaskSettings) -> None:
        """Raise PolicyError, naming what is outside, unless one plan is within the limits.

        ``settings`` are the plan's for its task, with the task's own defaults: what a plan
        leaves out is limited too. What plans cost together, and the share, are for the
        ledger to check; other settings of a task are for the task to check.
        """
        for phase in plan.phases:
            _among("phase", phase.kind, self.phases)
            if isinstance(phase, SampledPhase):  # the others take every unit, once a round
                _at_most("sampling_rate", phase.sampling_rate, self.max_sampling_rate)
                _among("clipping", phase.clipping.function, self.clippings)
            if isinstance(phase, DpZeroPhase):
                _at_most("directions", phase.estimator.directions, self.max_directions)
            _at_most("steps_per_round", phase.steps_per_round, self.max_steps_per_round)
            _at_least("noise_multiplier", phase.noise.multiplier, self.min_noise_multiplier)
        _at_most("rounds", plan.rounds, self.max_rounds)
        _among("model", plan.model.name, self.models)
        task_limits: tuple[tuple[str, Callable[..., None], Any], ...] = (
            ("max_length", _at_most, self.max_length),
            ("head", _among, self.heads),
        )
        for name, check, allowed in task_limits:
            if hasattr(settings, name):  # another task may have no such setting
                check(name, getattr(settings, name), allowed)

    def nearest(self, settings: TaskSettings) -> TaskSettings:
        """A task's settings, with what is outside the limits changed to what is not."""
        changes: dict[str, Any] = {}
        if hasattr(settings, "max_length"):
            changes["max_length"] = min(settings.max_length, self.max_length)
        if hasattr(settings, "head") and settings.head not in self.heads:
            changes["head"] = self.heads[0]
        return settings.changed(**changes)

    def bias_distance(self, plan: Plan, declared_size: int) -> float:
        """How far any bias that a round starts from may be from its pretrained value."""
        if self.max_bias_distance:
            return self.max_bias_distance
        return min(max(plan.largest_distance(declared_size), LEAST_DISTANCE), MOST_DISTANCE)

    @field_validator("max_rounds")
    @classmethod
    def _few_enough(cls, rounds: int, info: ValidationInfo) -> int:
        if rounds * info.data.get("max_steps_per_round", 1) > MOST_STEPS:
            raise fault(f"times max-steps-per-round must be at most {MOST_STEPS:,}")
        return rounds
