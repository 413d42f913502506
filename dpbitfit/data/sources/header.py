"""Finding the wanted columns among those that a source has."""

from collections.abc import Sequence
from typing import Any

from dpbitfit.data.names import canonical
from dpbitfit.errors import InputError

Columns = dict[str, list[Any]]  # the values [n] of each wanted column


def places(
    source: str, header: Sequence[object], columns: Sequence[str], declared: bool = False
) -> list[int]:
    """Where each of the wanted columns stands in a header.

    Raises InputError for one that is not there, or twice. Only names that the format
    ``declared`` are quoted: without a header a file's first line is a record.
    """
    names = [canonical(str(name)) for name in header]
    for column in columns:
        times = names.count(canonical(column))
        if times > 1:
            raise InputError(
                f"{source}: there are {times} columns {column!r}: rename or remove all but one"
            )
        if times == 0:
            there = ", ".join(map(repr, names)) if declared else f"the {len(names)} that it has"
            raise InputError(f"{source}: no column {column!r} among {there}")
    return [names.index(canonical(column)) for column in columns]
