"""What a site's policy lets one coordinator ask of one dataset."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from dpbitfit.errors import PolicyError
from dpbitfit.plan import HEADS, Plan
from dpbitfit_client.policy import value_rules
from dpbitfit_client.policy.toml_table import Table

MOST_STEPS = 10**6  # of a plan: what takes an accountant seconds, not minutes
# Of a bias from its pretrained value, unless the policy says otherwise. A run may begin
# where another ended; and who makes a plan chooses its learning rate as well.
LEAST_DISTANCE, MOST_DISTANCE = 1.0, 10.0


@dataclass(frozen=True)
class Limits:
    """What one coordinator may ask of one dataset.

    ``epsilon`` is its share of the budget, at the dataset's delta, over all its
    plans; the other numbers bound each single plan. ``max_length`` is in tokens;
    ``max_bias_distance`` is 0 where it follows from the plan.
    """

    epsilon: float
    min_noise_multiplier: float
    max_sampling_rate: float
    max_steps_per_round: int
    max_rounds: int
    models: tuple[str, ...]
    heads: tuple[str, ...]
    max_length: int
    max_bias_distance: float = 0.0

    @property
    def max_steps(self) -> int:
        """Noisy steps of the longest plan."""
        return self.max_rounds * self.max_steps_per_round

    def check(self, plan: Plan) -> None:
        """Raise PolicyError, naming what is outside, unless one plan is within the limits.

        InputError for a plan that could not be run anywhere. What plans cost
        together, and the share, are for the ledger to check.
        """
        plan.check()
        for name, value, most in (
            ("sampling_rate", plan.sampling_rate, self.max_sampling_rate),
            ("steps_per_round", plan.steps_per_round, self.max_steps_per_round),
            ("rounds", plan.rounds, self.max_rounds),
            ("max_length", plan.max_length, self.max_length),
        ):
            if not 0 < value <= most:
                raise PolicyError(f"the policy allows {name} up to {most:g}, not {value:g}")
        if plan.noise_multiplier < self.min_noise_multiplier:
            least = self.min_noise_multiplier
            raise PolicyError(
                f"the policy allows noise_multiplier from {least:g}, not {plan.noise_multiplier:g}"
            )
        for name, chosen, allowed in (
            ("model", plan.model, self.models),
            ("head", plan.head, self.heads),
        ):
            if chosen not in allowed:
                raise PolicyError(f"the policy does not allow the {name} {chosen!r:.60}")

    def bias_distance(self, plan: Plan, declared_size: int) -> float:
        """How far any bias that a round starts from may be from its pretrained value."""
        if self.max_bias_distance:
            return self.max_bias_distance
        return min(max(plan.largest_distance(declared_size), LEAST_DISTANCE), MOST_DISTANCE)

    @classmethod
    def read(cls, table: Table, most_epsilon: float, models: Sequence[str]) -> Self:
        limits = cls(
            table.number("epsilon", value_rules.EPSILON, most_epsilon),
            table.number("min-noise-multiplier", value_rules.NOISE),
            table.number("max-sampling-rate", value_rules.RATE),
            table.whole("max-steps-per-round", 10**6),
            table.whole("max-rounds", 10**6),
            table.chosen("models", models),
            table.chosen("heads", HEADS, ("labels",)),
            table.whole("max-length", 10**5, 128),
            table.number("max-bias-distance", value_rules.DISTANCE, 0.0),
        )
        if limits.epsilon > most_epsilon:
            table.fault("epsilon", f"must be at most the dataset's, {most_epsilon:g}")
        if limits.max_steps > MOST_STEPS:
            table.fault("max-rounds", f"times max-steps-per-round must be at most {MOST_STEPS:,}")
        table.done()
        return limits
