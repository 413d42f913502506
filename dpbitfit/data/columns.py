"""What a column may hold, and how its values are checked.

Messages name columns and row numbers, never what a row holds.
"""

import math
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from dpbitfit.errors import InputError


class Kind(Enum):
    """The kind of a column's values, as a task declares it."""

    TEXT = "text"  # str
    LABEL = "label"  # read as the label's position in the public label set
    NUMBER = "number"  # finite float


def read_column(
    source: str | Path, column: str, values: Sequence[Any], kind: Kind, labels: Sequence[str]
) -> list[Any]:
    """The values [n] of one column; InputError, with the row's number, for another kind."""
    if kind is Kind.NUMBER:
        return [_number(source, row, column, value) for row, value in enumerate(values, start=1)]
    texts = read_names(source, column, values)
    if kind is Kind.LABEL:
        return _positions(source, texts, labels)
    if any(isinstance(value, int | float) for value in values):
        raise InputError(f"{source}: column {column!r} holds numbers, not text")
    return texts


def read_names(source: str | Path, column: str, values: Sequence[Any]) -> list[str]:
    """Values [n] as text without outer spaces; InputError where one is empty or not Unicode."""
    texts = []
    for row, value in enumerate(values, start=1):
        missing = value is None or (isinstance(value, float) and math.isnan(value))
        text = "" if missing else str(value).strip()
        if not text or text.lower() == "nan":
            raise InputError(f"{source}: row {row}: column {column!r} is empty or NaN")
        if not _is_unicode(text):  # no tokenizer would read it
            raise InputError(f"{source}: row {row}: column {column!r} is no Unicode text")
        texts.append(text)
    return texts


def _positions(source: str | Path, texts: Sequence[str], labels: Sequence[str]) -> list[int]:
    position = {name: index for index, name in enumerate(labels)}
    for row, text in enumerate(texts, start=1):
        if text not in position:
            raise InputError(f"{source}: row {row}: its label is not in the public label set")
    return [position[text] for text in texts]


def _number(source: str | Path, row: int, column: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{source}: row {row}: column {column!r} is not a finite number")
    return number


def _is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8: half of a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
