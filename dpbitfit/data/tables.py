"""Records as a table of columns, from a CSV, JSONL or Parquet file, or from a function.

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

from dpbitfit.data.columns import Kind, read_column, read_names
from dpbitfit.errors import InputError


@dataclass(frozen=True)
class Table:
    """Records: in ``columns`` the values [n] of each column, by the task's own name for it.

    ``units`` [n] names the person of each record where the unit of privacy is a
    person, ``sites`` [n] the site of each record where the data names it.
    """

    columns: Mapping[str, Sequence[Any]]
    units: Sequence[str] | None = None
    sites: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> "Table":
        """The records at ``indices``, in that order."""

        def pick(values: Sequence[Any]) -> list[Any]:
            return [values[i] for i in indices]

        return Table(
            {name: pick(values) for name, values in self.columns.items()},
            None if self.units is None else pick(self.units),
            None if self.sites is None else pick(self.sites),
        )

    def unit_records(self) -> list[NDArray[np.int64]]:
        """The records of each unit of privacy; every record in exactly one.

        Without units each record is its own.
        """
        members: dict[str | int, list[int]] = {}
        units: Sequence[str | int] = range(len(self)) if self.units is None else self.units
        for record, unit in enumerate(units):
            members.setdefault(unit, []).append(record)
        return [np.array(records, dtype=np.int64) for records in members.values()]


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
    values = {name: list(table[name]) for name in columns}
    if len({len(column) for column in values.values()}) > 1:
        raise InputError(f"{source}: the columns have different lengths")
    if not all(values.values()):
        raise InputError(f"{source}: there are no records")
    return values


def read_table(
    source: str | Path,
    columns: Mapping[str, Kind],
    labels: Sequence[str],
    names: Mapping[str, str] | None = None,
    unit_column: str | None = None,
    site_column: str | None = None,
) -> Table:
    """The columns that a task needs, from ``source``; ``labels`` is the public label set.

    ``names`` says what the source calls a column, where it is not the task's own name.
    Raises InputError, with the row's number, for a value that is not of its column's
    kind, and for an empty unit or site.
    """
    called = {name: (names or {}).get(name, name) for name in columns}
    raw = read_columns(source, [*called.values(), *filter(None, (unit_column, site_column))])
    values = {
        name: read_column(source, called[name], raw[called[name]], kind, labels)
        for name, kind in columns.items()
    }
    units = read_names(source, unit_column, raw[unit_column]) if unit_column else None
    sites = read_names(source, site_column, raw[site_column]) if site_column else None
    return Table(values, units, sites)


def read_labels(spec: str) -> tuple[str, ...]:
    """The public label set: ``a,b,c``, a JSON list, or a text file with one a line.

    It is empty for an empty ``spec``, of a task that has no label.

    Raises InputError for a file that cannot be read, duplicates, fewer than two.
    """
    if not spec:
        return ()
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
