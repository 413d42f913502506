"""Records as a table of columns, from a file or from a function.

Messages name columns and row numbers, never what a row holds.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpbitfit.data.columns import Kind, read_column, read_names
from dpbitfit.data.sources.delimited import ABSENT
from dpbitfit.data.sources.formats import reader
from dpbitfit.data.sources.header import Columns
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


def read_columns(
    source: str | Path, columns: Sequence[str], literal: Collection[str] = ()
) -> Columns:
    """The named columns of a file, or of what ``module:function`` returns; no others are read.

    In a ``literal`` column of a CSV file the text NA is a value without quotes too.
    Raises InputError for a file that cannot be read, a missing column, no rows.
    """
    values = reader(str(source))(str(source), columns, literal)
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
    wanted = dict.fromkeys([*called.values(), *filter(None, (unit_column, site_column))])
    # A label that is called NA is a label; a second pass over the file is for such sets only.
    labelled = [called[name] for name, kind in columns.items() if kind is Kind.LABEL]
    literal = labelled if not ABSENT.isdisjoint(labels) else ()
    raw = read_columns(source, [*wanted], literal)
    values = {
        name: read_column(source, called[name], raw[called[name]], kind, labels)
        for name, kind in columns.items()
    }
    units = read_names(source, unit_column, raw[unit_column]) if unit_column else None
    sites = read_names(source, site_column, raw[site_column]) if site_column else None
    return Table(values, units, sites)
