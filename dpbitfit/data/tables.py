"""Labelled text from a CSV, JSONL or Parquet file, or from a function.

Messages name columns and row numbers, never what a row holds.
"""

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv, parquet
from pyarrow import json as json_lines

from dpbitfit.errors import InputError


@dataclass(frozen=True)
class Examples:
    """Labelled texts; ``labels`` [n] are positions in the public label set.

    ``units`` names the person of each record where the unit of privacy is a
    person, ``sites`` the site of each record where the data names it.
    """

    texts: list[str]
    labels: NDArray[np.int64]
    units: list[str] | None = None
    sites: list[str] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> "Examples":
        """The examples at ``indices``, in that order."""

        def pick(values: list[str] | None) -> list[str] | None:
            return None if values is None else [values[i] for i in indices]

        texts = [self.texts[i] for i in indices]
        labels = self.labels[np.asarray(indices, dtype=np.int64)]
        return Examples(texts, labels, pick(self.units), pick(self.sites))


def read_columns(source: str | Path, columns: Sequence[str]) -> dict[str, list[Any]]:
    """The named columns of a file, or of what ``module:function`` returns.

    Raises InputError for a file that cannot be read, a missing column, no rows.
    """
    table = _load(str(source), columns)
    missing = [name for name in columns if name not in table]
    if missing:
        raise InputError(
            f"{source}: no column {missing[0]!r}; the columns are {', '.join(map(repr, table))}"
        )
    found = {name: list(table[name]) for name in columns}
    if len({len(values) for values in found.values()}) > 1:
        raise InputError(f"{source}: the columns have different lengths")
    if not all(found.values()):
        raise InputError(f"{source}: there are no records")
    return found


def read_examples(
    source: str | Path,
    text_column: str,
    label_column: str,
    labels: Sequence[str],
    unit_column: str | None = None,
    site_column: str | None = None,
) -> Examples:
    """Labelled texts from ``source``; ``labels`` is the public label set.

    Raises InputError, with the row's number, for a text, label, unit or site
    that is empty or not a number or text, or not Unicode, and for a label outside
    the set.
    """
    wanted = [text_column, label_column, *filter(None, (unit_column, site_column))]
    table = read_columns(source, wanted)
    texts = _strings(source, text_column, table[text_column])
    if any(isinstance(value, int | float) for value in table[text_column]):
        raise InputError(f"{source}: column {text_column!r} holds numbers, not text")
    position = {name: index for index, name in enumerate(labels)}
    indices = []
    for row, label in enumerate(_strings(source, label_column, table[label_column]), start=1):
        if label not in position:
            raise InputError(f"{source}: row {row}: its label is not in the public label set")
        indices.append(position[label])
    units = _strings(source, unit_column, table[unit_column]) if unit_column else None
    sites = _strings(source, site_column, table[site_column]) if site_column else None
    return Examples(texts, np.array(indices, dtype=np.int64), units, sites)


def read_labels(spec: str) -> tuple[str, ...]:
    """The public label set: ``a,b,c``, a JSON list, or a text file with one a line.

    Raises InputError for a file that cannot be read, duplicates, fewer than two.
    """
    path = Path(spec)
    if path.suffix not in (".json", ".txt"):
        names = [name.strip() for name in spec.split(",")]
    else:
        try:
            text = path.read_text(encoding="utf-8")
            names = json.loads(text) if path.suffix == ".json" else text.splitlines()
        except (OSError, ValueError) as error:
            raise InputError(f"{spec}: the label set cannot be read: {_reason(error)}") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{spec}: the label set must be a list of names")
    names = [name for name in names if name]
    if len(names) < 2:
        raise InputError("the label set needs at least two labels")
    if len(set(names)) < len(names):
        raise InputError("the label set names a label twice")
    return tuple(names)


def _load(source: str, columns: Sequence[str]) -> Mapping[str, Sequence[Any]]:
    suffix = Path(source).suffix.lower()
    try:
        if suffix == ".csv":
            # Text stays text: a label "1" or "true" is neither a number nor a truth value.
            types = {name: pa.string() for name in columns}
            options = csv.ConvertOptions(column_types=types, strings_can_be_null=True)
            parsing = csv.ParseOptions(newlines_in_values=True)
            return _columns(csv.read_csv(source, parse_options=parsing, convert_options=options))
        if suffix in (".jsonl", ".ndjson"):
            return _columns(json_lines.read_json(source))
        if suffix == ".parquet":
            return _columns(parquet.read_table(source))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{source}: cannot be read: {_reason(error)}") from error
    module, colon, function = source.partition(":")
    if not colon:
        raise InputError(f"{source!r} is not a .csv, .jsonl or .parquet file nor module:function")
    try:
        loader = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise InputError(f"{source!r}: there is no such function") from error
    table: Mapping[str, Sequence[Any]] = loader()
    return table


def _columns(table: Any) -> Mapping[str, Sequence[Any]]:
    columns: Mapping[str, Sequence[Any]] = table.to_pydict()
    return columns


def _reason(error: Exception) -> str:
    """What is wrong, without the content that a parser's message may quote."""
    return (error.strerror or "no such file") if isinstance(error, OSError) else "it is damaged"


def _strings(source: str | Path, column: str, values: Sequence[Any]) -> list[str]:
    texts = []
    for row, value in enumerate(values, start=1):
        bad = value is None or (isinstance(value, float) and value != value)
        text = "" if bad else str(value).strip()
        if not text or text.lower() == "nan":
            raise InputError(f"{source}: row {row}: column {column!r} is empty or NaN")
        if not _is_unicode(text):  # no tokenizer would read it
            raise InputError(f"{source}: row {row}: column {column!r} is no Unicode text")
        texts.append(text)
    return texts


def _is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8: half of a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
