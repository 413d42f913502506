"""What a column may hold, and how its values are checked.

Messages name columns, types and row numbers, never what a row holds.
"""

import math
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from dpbitfit.data.names import canonical
from dpbitfit.data.sources.text_files import CONVERT
from dpbitfit.errors import InputError

# How programs print a value that is not there, in a text and in a name.
_NO_TEXT = frozenset({"nan", "nat", "<na>"})
_NO_NAME = _NO_TEXT | {"none", "null"}
# From here on neighbouring whole numbers are one and the same float.
_INEXACT = 2.0**53


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
    if kind is Kind.LABEL:
        names = _read(source, column, values, canonical, _name, frozenset())
        return _positions(source, names, labels)
    return _read(source, column, values, str.strip, _text, _NO_TEXT)


def read_names(source: str | Path, column: str, values: Sequence[Any]) -> list[str]:
    """Names [n] of persons or sites, each in its canonical form; whole numbers are names too.

    Raises InputError where one is missing, not Unicode or of another type.
    """
    return _read(source, column, values, canonical, _name, _NO_NAME)


def _read(
    source: str | Path,
    column: str,
    values: Sequence[Any],
    form: Callable[[str], str],
    spelled: Callable[[Any], str],
    absent: frozenset[str],
) -> list[str]:
    """Each value, ``spelled`` as a text and brought to a ``form``; none may be ``absent``."""
    texts = []
    missing = []
    for row, value in enumerate(values, start=1):
        try:
            text = "" if _is_missing(value) else form(spelled(value))
            text.encode()  # half of a surrogate pair cannot be: no tokenizer would read it
        except _Unusable as error:
            raise InputError(f"{source}: row {row}: column {column!r} {error}") from error
        except UnicodeError as error:
            raise InputError(
                f"{source}: row {row}: column {column!r} is no Unicode text: {CONVERT}"
            ) from error
        if not text or text.lower() in absent:
            missing.append(row)
        texts.append(text)
    if missing:
        more = f", {len(missing)} rows in all" if len(missing) > 1 else ""
        raise InputError(f"{source}: row {missing[0]}: column {column!r} is empty or NaN{more}")
    return texts


class _Unusable(Exception):
    """What is wrong with a value, in words that follow its column."""


def _is_missing(value: Any) -> bool:
    if isinstance(value, float):
        return math.isnan(value)
    # Those of pandas, by name: it need not be installed.
    return value is None or type(value).__name__ in ("NAType", "NaTType")


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise _Unusable("holds numbers, not text")
    raise _Unusable(f"holds a value of the type {type(value).__name__}: write it as text")


def _name(value: Any) -> str:
    """A number as it would be written by hand: 7 and 7.0 are one name."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _text(value)
    if isinstance(value, int):
        return str(value)
    if abs(value) >= _INEXACT:
        raise _Unusable("holds a number too long to be exact: write it as text")
    return str(int(value)) if value.is_integer() else repr(value)


def _positions(source: str | Path, texts: Sequence[str], labels: Sequence[str]) -> list[int]:
    position = {canonical(name): index for index, name in enumerate(labels)}
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
