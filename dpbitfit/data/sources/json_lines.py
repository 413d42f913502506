"""JSON lines: one object a line, of which the wanted keys are read."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

from dpbitfit.data.names import canonical
from dpbitfit.data.sources.header import Columns
from dpbitfit.data.sources.text_files import UNREADABLE, open_text, reason
from dpbitfit.errors import InputError

_KEYS = 4096  # whose spelling is kept


def read(path: str, columns: Sequence[str], _literal: Collection[str] = ()) -> Columns:
    """The wanted columns [n], None where an object lacks one; InputError for what is no JSON."""
    keys = {canonical(column): column for column in columns}
    spelling = lru_cache(_KEYS)(canonical)  # the lines have the same keys, most of them
    values: Columns = {column: [] for column in columns}
    present: set[str] = set()
    try:
        # Bytes that are no UTF-8 become half surrogates, which matter in a wanted column only.
        with open_text(path, errors="surrogateescape", newline="\n") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    row = _object(path, number, line, keys, spelling)
                    present |= row.keys()
                    for column in columns:
                        values[column].append(row.get(column))
    except UNREADABLE as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}") from error
    for column in columns:
        if values[column] and column not in present:
            raise InputError(f"{path}: no line has a {column!r}")
    return values


def _object(
    path: str, number: int, line: str, keys: Mapping[str, str], spelling: Callable[[str], str]
) -> dict[str, Any]:
    """The wanted values of one line, by column; ``keys`` are the columns by their spelling."""

    def wanted(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name, value in pairs:
            if column := keys.get(spelling(name)):
                if column in values:
                    raise InputError(f"{path}: line {number} has {column!r} more than once")
                values[column] = value
        return values

    try:
        row = json.loads(line, object_pairs_hook=wanted)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: line {number} is no JSON: write one object a line") from error
    if not isinstance(row, dict):
        raise InputError(f"{path}: line {number} is no JSON object: write one a line")
    return row
