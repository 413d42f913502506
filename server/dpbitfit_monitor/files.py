"""Whether a file has changed since it was read."""

from pathlib import Path
from typing import NamedTuple


class Stamp(NamedTuple):
    """A file's number, time and size: no two versions of a file share all three."""

    number: int
    modified_ns: int
    size: int


def stamp(path: Path) -> Stamp | None:
    """A file's stamp; None where there is no file that can be read."""
    try:
        status = path.stat()
    except OSError:
        return None
    return Stamp(status.st_ino, status.st_mtime_ns, status.st_size)
