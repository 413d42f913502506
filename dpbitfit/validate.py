"""What each kind of value may be: types, bounds and help, declared once for every setting.

Annotated types for pydantic models. They are strict: a whole number stands for a
real one and nothing else is converted; NaN and infinity are refused. A field may
give another ``description`` of its own; its bounds are those here.
"""

import os
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

from pydantic import Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

MOST_STEPS = 10**6  # of a plan: what takes an accountant seconds, not minutes
MOST_METRIC = 1e9  # a metric's bound
MOST_DIGITS = 64  # of a privacy parameter as the ledger writes it
LONGEST_NAME = 200
_EVALUATION = 20  # characters kept for what a name gets in the ledger: ":evaluation"


@dataclass(frozen=True)
class Form:
    """What a value must be, in words that follow "must be", and whether one is."""

    words: str
    holds: Callable[[Any], bool]

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def _check(self, value: Any) -> Any:
        if not self.holds(value):
            raise PydanticCustomError("form", "{words}", {"words": self.words})
        return value


def one_of(names: Collection[str]) -> Form:
    """One of some names."""
    return Form(f"one of {', '.join(map(repr, names))}", lambda value: value in names)


def real(low: float, high: float, description: str) -> Any:
    """A number from ``low`` to ``high``, both included."""
    return Field(strict=True, ge=low, le=high, allow_inf_nan=False, description=description)


def whole(low: int, high: int, description: str) -> Any:
    """A whole number from ``low`` to ``high``, both included."""
    return Field(strict=True, ge=low, le=high, description=description)


def described(text: str, **bounds: Any) -> Any:
    """A setting's help, and its bounds."""
    return Field(description=text, **bounds)


def text(description: str) -> Any:
    """A text."""
    return Field(strict=True, description=description)


def is_name(value: str, longest: int = LONGEST_NAME) -> bool:
    """Whether a text can be a part of an account's name."""
    return 0 < len(value) <= longest and value.isprintable() and "/" not in value


def is_path(value: str) -> bool:
    """Whether a text is an absolute path that can be shown."""
    return value.isprintable() and os.path.isabs(value)


def _is_short(value: float) -> bool:
    return len(format(Decimal(repr(value)).normalize(), "f")) <= MOST_DIGITS


# The bounds of noise multiplier and rate are those that the accountants hold within.
NoiseMultiplier = Annotated[
    float, real(0.01, 1e6, "Standard deviation of the noise, over the sensitivity.")
]
SamplingRate = Annotated[float, real(1e-9, 1, "Poisson sampling rate of each unit at each step.")]
Delta = Annotated[
    float,
    Field(
        strict=True, gt=0, lt=1, allow_inf_nan=False, description="Delta at which epsilon is given."
    ),
    Form(f"a delta above 0 and below 1, of at most {MOST_DIGITS} digits", _is_short),
]
Epsilon = Annotated[
    float,
    Field(
        strict=True, gt=0, le=10_000, allow_inf_nan=False, description="Epsilon that may be spent."
    ),
    Form(f"an epsilon above 0, at most 10,000, of at most {MOST_DIGITS} digits", _is_short),
]
ClippingNorm = Annotated[
    float, real(1e-9, 1e6, "L2 norm to which the gradient of each unit is clipped.")
]
LearningRate = Annotated[float, real(1e-9, 1e6, "The largest learning rate: see the schedule.")]
Prior = Annotated[
    float, real(0, 1e6, "How much the head as it is counts, in lengths of the sums' noise.")
]
LogitScale = Annotated[float, real(1e-9, 1e6, "Multiplies cosine similarity.")]

Rounds = Annotated[int, whole(1, MOST_STEPS, "Rounds of the plan.")]
StepsPerRound = Annotated[int, whole(1, MOST_STEPS, "Noisy steps of each round.")]
DirectionCount = Annotated[int, whole(1, 1024, "Directions of each step of dp-zero.")]
Evaluations = Annotated[int, whole(0, MOST_STEPS, "How often the sites' metrics are measured.")]
Layers = Annotated[
    int, whole(0, 1000, "Train biases of this many of the model's last layers only; 0: of all.")
]
MaxLength = Annotated[int, whole(1, 10**5, "Tokens kept of each text.")]
DeclaredSize = Annotated[
    int, whole(1, 10**9, "Public constant that stands for the number of units.")
]

Name = Annotated[
    str,
    text("A name, as the ledger keeps it."),
    Form(f"1 to {LONGEST_NAME} printable characters without '/'", is_name),
]
# A colon joins an account's name and "evaluation" in the ledger.
PlainName = Annotated[
    str,
    text("A name that a site chooses."),
    Form(
        f"1 to {LONGEST_NAME - _EVALUATION} printable characters without '/' or ':'",
        lambda value: is_name(value, LONGEST_NAME - _EVALUATION) and ":" not in value,
    ),
]
Digest = Annotated[
    str,
    text("SHA-256 or public key, as hexadecimal digits."),
    Form("64 hexadecimal digits", lambda value: re.fullmatch("[0-9a-fA-F]{64}", value) is not None),
]
Import = Annotated[
    str,
    text("Where to import something from."),
    Form(
        "package.module:name",
        lambda value: bool(re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", value)),
    ),
]
