"""What both sides agree on before the first step: a plan, public in every field."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from dpbitfit.accounting.composition import Counts, Mechanism
from dpbitfit.errors import InputError, ProtocolError

CLIPPINGS = ("automatic", "flat")
HEADS = ("labels", "trained")
OPTIMIZERS = ("adam", "sgd")
NOISES = ("discrete-gaussian", "fast-insecure")


@dataclass(frozen=True)
class Plan:
    """One training plan: the mechanism, how often it runs, and what it trains.

    Every field is a public constant: nothing in it may be derived from private
    records. ``delta`` and ``noise_multiplier`` are relative to adding or
    removing one unit; ``sampling_rate`` is the Poisson rate of each unit at
    each step; ``learning_rate`` is that of the first step and falls linearly to
    0 over the plan's steps, so that the last ones add little noise. ``dataset``
    and ``model`` are the names by which a site knows them ("" where it has one data
    set only); ``max_length`` is in tokens. ``metrics``, separated by commas, are
    measured at the sites ``evaluations`` times, on records kept for that.
    """

    layout_digest: str
    model_digest: str
    noise_multiplier: float
    sampling_rate: float
    rounds: int
    steps_per_round: int
    delta: float
    clipping: str = "automatic"
    clipping_norm: float = 1.0
    noise: str = "discrete-gaussian"
    optimizer: str = "adam"
    learning_rate: float = 6e-3
    unit: str = "record"
    dataset: str = ""
    model: str = "minilm"
    head: str = "labels"
    logit_scale: float = 20.0
    max_length: int = 128
    metrics: str = ""
    evaluations: int = 0

    @property
    def steps(self) -> int:
        """Noisy steps over the whole plan."""
        return self.rounds * self.steps_per_round

    @property
    def mechanism(self) -> Mechanism:
        """One noisy step, as it is accounted."""
        return Mechanism(self.noise_multiplier, self.sampling_rate)

    def counts(self, steps: int) -> Counts:
        """So many of its noisy steps, as they are accounted and recorded."""
        return ((self.mechanism, steps),)

    def largest_update(self, parameters: int, declared_size: int) -> float:
        """A public bound on the L2 norm of an honest site's change of one round.

        Adam moves a value by at most about ``learning_rate`` a step (Kingma and
        Ba 2015, section 2.1); SGD by the noised mean gradient. Ten times that.
        """
        if self.optimizer == "adam":
            step = math.sqrt(parameters)
        else:
            noise = self.noise_multiplier * math.sqrt(parameters)
            step = self.clipping_norm * (1 + noise / (self.sampling_rate * declared_size))
        return 10 * self.steps_per_round * self.learning_rate * step

    def largest_distance(self, declared_size: int) -> float:
        """A public bound on how far honest training takes one value over the whole plan.

        Adam's step is about ``learning_rate``, and below 7.3 of it whatever the
        gradients are (by Cauchy-Schwarz on its moments); SGD's is the noised mean
        gradient. Ten steps of that size for each of the plan's, at the first rate.
        """
        step = 1.0
        if self.optimizer == "sgd":
            noise = self.noise_multiplier / (self.sampling_rate * declared_size)
            step = self.clipping_norm * (1 + noise)
        return 10 * self.steps * self.learning_rate * step

    @property
    def digest(self) -> str:
        """SHA-256 of the plan's canonical JSON; both sides compare it."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def check(self) -> None:
        """Raise InputError, naming the setting, unless every number is usable."""
        positive = ("noise_multiplier", "clipping_norm", "learning_rate", "logit_scale")
        for name in positive:
            value = getattr(self, name)
            if not (math.isfinite(value) and 1e-9 <= value <= 1e6):
                raise InputError(f"{name} must be between 1e-9 and 1e6, not {value!r}")
        if not (math.isfinite(self.sampling_rate) and 0 < self.sampling_rate <= 1):
            raise InputError(f"sampling_rate must be in (0, 1], not {self.sampling_rate!r}")
        if not (math.isfinite(self.delta) and 0 < self.delta < 1):
            raise InputError(f"delta must be in (0, 1), not {self.delta!r}")
        for name in ("rounds", "steps_per_round", "max_length"):
            value = getattr(self, name)
            if not 1 <= value <= 1_000_000:
                raise InputError(f"{name} must be between 1 and 1,000,000, not {value!r}")
        if not 0 <= self.evaluations <= self.rounds:
            raise InputError(f"evaluations must be between 0 and rounds, not {self.evaluations!r}")
        for name, allowed in (
            ("clipping", CLIPPINGS),
            ("head", HEADS),
            ("noise", NOISES),
            ("optimizer", OPTIMIZERS),
        ):
            if getattr(self, name) not in allowed:
                choices = ", ".join(allowed)
                raise InputError(f"{name} must be one of {choices}, not {getattr(self, name)!r}")

    def to_config(self) -> dict[str, Any]:
        """The plan as the flat scalars of a Flower ConfigRecord."""
        return asdict(self)

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """Read a plan from a mapping; ProtocolError on a missing field or a wrong type."""
        values = {}
        for field in fields(cls):
            if field.name not in config:
                raise ProtocolError(f"the plan lacks {field.name!r}")
            value = config[field.name]
            wanted = field.type
            if wanted is float and type(value) is int:
                value = float(value)
            if type(value) is not wanted:
                raise ProtocolError(f"the plan's {field.name!r} is not a {wanted}")
            values[field.name] = value
        return cls(**values)
