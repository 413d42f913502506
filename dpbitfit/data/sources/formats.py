"""Which module reads a source, by how its name ends."""

from collections.abc import Callable, Collection, Mapping, Sequence

from dpbitfit.data.sources import delimited, json_lines, loader, parquet, spreadsheet
from dpbitfit.data.sources.header import Columns
from dpbitfit.errors import InputError

# A source, the wanted columns, and those of them in which the text NA is a value.
Reader = Callable[[str, Sequence[str], Collection[str]], Columns]

READERS: Mapping[str, Reader] = {
    ".csv": delimited.read,
    ".csv.gz": delimited.read,
    ".tsv": delimited.read,
    ".tsv.gz": delimited.read,
    ".jsonl": json_lines.read,
    ".jsonl.gz": json_lines.read,
    ".ndjson": json_lines.read,
    ".ndjson.gz": json_lines.read,
    ".parquet": parquet.read,
    ".xlsx": spreadsheet.read,
}


def is_file(source: str) -> bool:
    """Whether a source is a file that can be read, by its name."""
    return source.lower().endswith(tuple(READERS))


def reader(source: str) -> Reader:
    """What reads a source; InputError for a name that is neither a file's nor a function's."""
    for ending, read in READERS.items():
        if source.lower().endswith(ending):
            return read
    if ":" in source:
        return loader.read
    raise InputError(f"{source!r} is not a {', '.join(READERS)} file nor module:function")
