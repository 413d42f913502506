"""What a function of the site's own returns: columns by their names, or a data frame."""

import importlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from dpbitfit.data.sources import arrow
from dpbitfit.data.sources.header import Columns, places
from dpbitfit.errors import DpbitfitError, InputError


def read(source: str, columns: Sequence[str], _literal: Collection[str] = ()) -> Columns:
    """The wanted columns [n] of what ``package.module:function`` returns.

    Raises InputError for a function that is not there, raises, or returns something else;
    what it raises may quote a record, so only the type is reported.
    """
    module, _, name = source.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"{source!r}: there is no such function") from error
    try:
        return _columns(source, function(), columns)
    except DpbitfitError:
        raise
    except Exception as error:
        kind = type(error).__name__
        raise InputError(f"{source}: {kind} was raised: see what raises it") from error


def _columns(source: str, table: Any, columns: Sequence[str]) -> Columns:
    if isinstance(table, pa.Table):
        wanted = places(source, table.column_names, columns)
        for column, at in zip(columns, wanted, strict=True):
            arrow.check_type(source, column, table.schema.field(at).type)
        return {
            column: arrow.values(table.column(at))
            for column, at in zip(columns, wanted, strict=True)
        }
    # Frames of pandas and polars have their names there.
    names = table if isinstance(table, Mapping) else getattr(table, "columns", None)
    if names is None:
        raise InputError(
            f"{source} returned a {type(table).__name__}: return the columns by name, "
            "as {'text': [...], 'label': [...]}, or a data frame"
        )
    header = list(names)
    wanted = places(source, header, columns)
    return {
        column: [_plain(value) for value in table[header[at]]]
        for column, at in zip(columns, wanted, strict=True)
    }


def _plain(value: Any) -> Any:
    """A scalar of NumPy as Python's."""
    return value.item() if isinstance(value, np.generic) else value
