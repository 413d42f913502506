"""Values of an Arrow column as Python's, where its type is one that a column may hold."""

from contextlib import suppress
from typing import Any

import pyarrow as pa

from dpbitfit.errors import InputError

_BYTES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
_READABLE = (
    *_BYTES,
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_decimal,
    pa.types.is_boolean,
    pa.types.is_null,
)


def check_type(source: str, column: str, kind: Any) -> None:
    """InputError, with its name, for a type that no column may hold, such as a timestamp."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not any(holds(kind) for holds in _READABLE):
        name = str(kind).partition("<")[0].partition("[")[0]
        raise InputError(f"{source}: column {column!r} is of the type {name}: write it as text")


def values(array: Any) -> list[Any]:
    """The values [n] of an array; bytes are text where they are UTF-8, else bytes."""
    if any(holds(array.type) for holds in _BYTES):
        with suppress(pa.ArrowInvalid):  # else the row is named where the column is checked
            array = array.cast(pa.large_string())
    python: list[Any] = array.to_pylist()
    return python
