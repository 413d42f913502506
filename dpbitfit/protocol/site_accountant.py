"""One site's composed privacy loss, behind Flower's ``PrivacyAccountant`` protocol.

Flower's own accountant counts clients; this one counts the records (or persons)
of one site. A release is one noisy step of DP-SGD at that site.
"""

from collections import Counter
from typing import Any

from flwr.serverapp import (
    GaussianPrivacyEvent,
    NeighboringRelation,
    PrivacyConfig,
    PrivacySpent,
    SamplingMethod,
)

from dpbitfit.accounting import composition
from dpbitfit.accounting.composition import Bound, Mechanism
from dpbitfit.errors import AccountingError


class SiteAccountant:
    """Counts noisy steps of each mechanism and bounds what they cost together.

    ``config.population_size`` is the site's declared, public size;
    ``config.max_epsilon`` its budget. Raises AccountingError for a config other
    than Poisson sampling with add-or-remove-one adjacency.
    """

    def __init__(self, config: PrivacyConfig) -> None:
        if config.sampling_method is not SamplingMethod.POISSON:
            raise AccountingError("a site samples its records by Poisson sampling")
        self._config = config
        self._steps: Counter[Mechanism] = Counter()

    @classmethod
    def of(cls, delta: float, declared_size: int, budget: float) -> "SiteAccountant":
        """An accountant of one site with its budget (epsilon at ``delta``)."""
        return cls(
            PrivacyConfig(
                target_delta=delta,
                population_size=declared_size,
                neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE,
                sampling_method=SamplingMethod.POISSON,
                max_epsilon=budget,
            )
        )

    @property
    def config(self) -> PrivacyConfig:
        """Delta, declared size, adjacency, sampling, budget."""
        return self._config

    @property
    def num_releases(self) -> int:
        """Noisy steps so far."""
        return self._steps.total()

    def charge(self, mechanism: Mechanism, steps: int) -> None:
        """Count ``steps`` more of ``mechanism``; AccountingError unless 1 or more."""
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise AccountingError(f"the steps must be a whole number from 1, not {steps!r}")
        self._steps[mechanism] += steps

    def would_pass(self, mechanism: Mechanism, steps: int) -> bool:
        """Whether ``steps`` more of ``mechanism`` would pass the site's budget."""
        return self._exceeds(mechanism, steps, self._config.max_epsilon)

    def bound(self) -> Bound:
        """The smallest valid upper bound at the site's delta."""
        return composition.epsilon(self._steps, self._config.target_delta)

    def compose(self, event: GaussianPrivacyEvent, count: int = 1) -> None:
        """Count releases that are described in Flower's terms."""
        self.charge(_mechanism(event), count)

    def get_epsilon(self, delta: float) -> float:
        """Epsilon of everything so far at ``delta``."""
        return composition.epsilon(self._steps, delta).epsilon

    def get_delta(self, epsilon: float) -> float:
        """Delta of everything so far at ``epsilon``."""
        return composition.delta(self._steps, epsilon)

    def get_privacy_spent(self, delta: float | None = None) -> PrivacySpent:
        """Epsilon, delta, number of noisy steps, and whose bound it is."""
        bound = composition.epsilon(self._steps, delta or self._config.target_delta)
        return PrivacySpent(bound.epsilon, bound.delta, self.num_releases, bound.accountant)

    def would_exceed(
        self, event: GaussianPrivacyEvent, max_epsilon: float | None = None, count: int = 1
    ) -> bool:
        """Whether composing the event would pass ``max_epsilon``, or else the budget."""
        limit = self._config.max_epsilon if max_epsilon is None else max_epsilon
        return self._exceeds(_mechanism(event), count, limit)

    def state_dict(self) -> dict[str, object]:
        """The counts of each mechanism, as JSON can hold them."""
        return {
            "steps": [
                [m.noise_multiplier, m.sampling_rate, n] for m, n in sorted(self._steps.items())
            ]
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over saved counts in place of the present ones."""
        steps = {Mechanism(sigma, rate): count for sigma, rate, count in state["steps"]}
        self._steps = Counter(dict(composition.checked(steps)))

    def _exceeds(self, mechanism: Mechanism, steps: int, limit: float | None) -> bool:
        if limit is None:
            raise AccountingError("there is no budget to compare with; give max_epsilon")
        after = self._steps + Counter({mechanism: steps})
        return composition.epsilon(after, self._config.target_delta).epsilon > limit


def _mechanism(event: GaussianPrivacyEvent) -> Mechanism:
    return Mechanism(event.noise_multiplier, event.sample_size / event.population_size)
