"""Parquet files."""

from collections.abc import Collection, Sequence

import pyarrow as pa
from pyarrow import parquet

from dpbitfit.data.sources import arrow
from dpbitfit.data.sources.header import Columns, places
from dpbitfit.data.sources.text_files import reason
from dpbitfit.errors import InputError


def read(path: str, columns: Sequence[str], _literal: Collection[str] = ()) -> Columns:
    """The wanted columns [n]; InputError for a file, a column or a type that cannot be read."""
    try:
        with parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            fields = [schema.field(at) for at in places(path, schema.names, columns, declared=True)]
            for column, field in zip(columns, fields, strict=True):
                arrow.check_type(path, column, field.type)
            # One at a time: the others of the file are never in memory.
            return {
                column: arrow.values(file.read([field.name]).column(0))
                for column, field in zip(columns, fields, strict=True)
            }
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}") from error
