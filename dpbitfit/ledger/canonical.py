"""The one spelling of numbers, counts and JSON that the ledger stores, hashes and compares."""

import json
import math
from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any

from dpbitfit.accounting.mechanism import Counts, Mechanism, merged
from dpbitfit.errors import AccountingError, LedgerError

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


def to_json(value: Any) -> str:
    """Canonical JSON: sorted keys, no spaces, ASCII."""
    return _ENCODER.encode(value)


@lru_cache(maxsize=4096)
def number_to_text(value: float) -> str:
    """A number as plain decimal text: the shortest that reads back as the same float."""
    return format(Decimal(repr(float(value))).normalize(), "f")


def number_from_text(text: str) -> float:
    """The number of a canonical text; ValueError or TypeError for any other value."""
    if type(text) is not str:
        raise TypeError("is not the text of a number")
    value = float(text)
    if not math.isfinite(value) or number_to_text(value) != text:
        raise ValueError("is not the canonical text of a number")
    return value


def mechanism_to_text(mechanism: Mechanism) -> dict[str, str]:
    """A mechanism's two numbers as text, by field."""
    return {
        "noise_multiplier": number_to_text(mechanism.noise_multiplier),
        "sampling_rate": number_to_text(mechanism.sampling_rate),
    }


def counts_to_json(counts: Mapping[Mechanism, int] | Counts) -> list[list[str | int]]:
    """Counts as [[noise multiplier, sampling rate, steps], ...], in their one order."""
    pairs = counts if isinstance(counts, tuple) else merged(counts.items())
    return [[*mechanism_to_text(mechanism).values(), steps] for mechanism, steps in pairs]


def counts_to_text(counts: Mapping[Mechanism, int] | Counts) -> str:
    """Counts as canonical JSON."""
    return to_json(counts_to_json(counts))


def counts_from_json(value: Any) -> Counts:
    """The counts of parsed JSON; LedgerError for any that is not canonical."""
    return counts_from_text(to_json(value))


@lru_cache(maxsize=4096)
def counts_from_text(text: str) -> Counts:
    """The counts of a canonical text; LedgerError for any other text."""
    try:
        triples = [(float(sigma), float(rate), int(n)) for sigma, rate, n in json.loads(text)]
        counts = merged((Mechanism(sigma, rate), n) for sigma, rate, n in triples)
    except (ValueError, TypeError, OverflowError, RecursionError, AccountingError) as error:
        raise LedgerError("a count of steps cannot be read") from error
    if counts_to_text(counts) != text:
        raise LedgerError("a count of steps is not in its canonical form")
    return counts
