"""CSV and TSV files, as exports write them.

The separator is what a first line ``sep=;`` says, or the one with which the first line
names the wanted columns.
"""

import csv
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

import pyarrow as pa
from pyarrow import csv as arrow_csv

from dpbitfit.data.names import canonical
from dpbitfit.data.sources import arrow
from dpbitfit.data.sources.header import Columns, places
from dpbitfit.data.sources.text_files import (
    CONVERT,
    UNREADABLE,
    encoding,
    is_compressed,
    open_text,
    reason,
)
from dpbitfit.errors import InputError

_SEPARATORS = (",", ";", "\t", "|")
_DECLARED = re.compile(r'sep=([^\w\s"]|\t)\s*', re.IGNORECASE)
_LONGEST_DECLARATION = 8  # characters
# What stands for no value, where it is not in quotes.
ABSENT = frozenset(("", "NA", "N/A", "n/a", "#N/A", "NULL", "null", "NaN", "nan", "NaT", "<NA>"))
_BLOCKS = (1 << 20, 1 << 25, 1 << 30)  # bytes, of which a row fits in two; larger if need be
_CHARACTERS = 1 << 20  # that are read at once


@dataclass(frozen=True)
class _Header:
    names: list[str]
    separator: str
    declared: bool  # in a line of its own, before the names


def read(path: str, columns: Sequence[str], literal: Collection[str] = ()) -> Columns:
    """The wanted columns [n], of text, None where there is no value.

    NA, null and the like are no value without quotes, but in ``literal`` columns.
    Raises InputError that says whether encoding, separator, a row or its length is wrong.
    """
    try:
        header = _header(path, columns)
        wanted = dict(zip(columns, _places(path, header, columns), strict=True))
        values: Columns = {}
        for absent, group in ((ABSENT, set(columns) - set(literal)), ((), set(literal))):
            if chosen := {name: at for name, at in wanted.items() if name in group}:
                values |= _body(path, header, chosen, absent)
        _check_quotes(path, header.separator)
    except (*UNREADABLE, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}") from error
    return values


def _header(path: str, columns: Sequence[str]) -> _Header:
    with open_text(path, errors="replace") as file:
        first = file.readline(_LONGEST_DECLARATION)
        if not first:
            raise InputError(f"{path}: is empty")
        declaration = _DECLARED.fullmatch(first)
        if declaration:
            separators: Sequence[str] = declaration[1]
        else:
            separators = "\t" if path.lower().removesuffix(".gz").endswith(".tsv") else _SEPARATORS
        headers = []
        for separator in separators:
            file.seek(0)
            if declaration:
                file.readline()
            headers.append(_Header(_names(file, separator), separator, declaration is not None))
    wanted = {canonical(column) for column in columns}
    fitting = (h for h in headers if wanted <= {canonical(name) for name in h.names})
    return next(fitting, max(headers, key=lambda header: len(header.names)))


def _names(file: TextIO, separator: str) -> list[str]:
    try:
        return next(csv.reader(file, delimiter=separator), [])
    except csv.Error:  # longer than any name
        return []


def _places(path: str, header: _Header, columns: Sequence[str]) -> list[int]:
    try:
        return places(path, header.names, columns)
    except InputError as error:
        line = "".join(header.names)
        if line.startswith(("PK", "\x1f\ufffd")):
            advice = "it is no text: unpack it, or give it the ending of what it is"
        elif "\0" in line:
            advice = (
                "it may be UTF-16 without a mark: convert it, as with: iconv -f UTF-16LE -t UTF-8"
            )
        elif "\ufffd" in line:
            advice = f"the first line is no UTF-8: {CONVERT}"
        elif len(header.names) == 1:
            advice = "if it names several, separate them by a comma, semicolon or tab"
        else:
            advice = "the first line must name each of the columns, once"
        raise InputError(f"{error}; {advice}") from error


def _body(
    path: str, header: _Header, wanted: Mapping[str, int], absent: Collection[str]
) -> Columns:
    """The values of some columns, by their places."""
    names = [str(at) for at in range(len(header.names))]  # those of the file may be no UTF-8
    chosen = [names[at] for at in wanted.values()]
    wrong: list[Any] = []

    def note(row: Any) -> str:
        wrong.append(row)
        return "error"

    parsing = arrow_csv.ParseOptions(
        delimiter=header.separator, newlines_in_values=True, invalid_row_handler=note
    )
    # Bytes: whether they are UTF-8 matters, and is checked, in the wanted columns only.
    converting = arrow_csv.ConvertOptions(
        include_columns=chosen,
        column_types={name: pa.binary() for name in chosen},
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
        null_values=list(absent),
    )
    for size in _BLOCKS:
        reading = arrow_csv.ReadOptions(
            use_threads=False,  # else rows have no numbers
            block_size=size,
            column_names=names,
            skip_rows=int(header.declared),
            skip_rows_after_names=1,
            encoding=encoding(path).removesuffix("-sig"),
        )
        try:
            with pa.input_stream(path, "gzip" if is_compressed(path) else None) as stream:
                table = arrow_csv.read_csv(stream, reading, parsing, converting)
            return {name: arrow.values(table[str(at)]) for name, at in wanted.items()}
        except pa.ArrowInvalid as error:
            if wrong:
                raise InputError(_ragged(path, header, wrong[0])) from error
            if "straddling" not in str(error):
                raise
    raise InputError(f"{path}: a row is longer than 1 GiB: is a double quote never closed?")


def _ragged(path: str, header: _Header, row: Any) -> str:
    number = row.number - 1 - header.declared
    return (
        f"{path}: row {number} has {row.actual_columns} fields and the first line "
        f"{row.expected_columns}, separated by {header.separator!r}: a text with that or with a "
        "line break in it must be in double quotes"
    )


def _check_quotes(path: str, separator: str) -> None:
    """InputError where a quote is not closed: what follows, up to the next, would be one text.

    Rows of several people would be one person's then, where their number of fields still fits.
    """
    with open_text(path, errors="replace") as file:
        if not any('"' in part for part in iter(lambda: file.read(_CHARACTERS), "")):
            return
        file.seek(0)
        rows = csv.reader(file, delimiter=separator, strict=True)
        shorter = csv.field_size_limit(max(_BLOCKS))
        try:
            for _ in rows:
                pass
        except csv.Error as error:
            raise InputError(
                f"{path}: a double quote is never closed, or stands once where a text needs it "
                f"twice: see line {rows.line_num}, and those before it"
            ) from error
        finally:
            csv.field_size_limit(shorter)
