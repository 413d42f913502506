"""The files of a stored model: found in a folder or on a hub, replaced as a whole."""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from transformers.utils import cached_file

DESCRIPTION = "dpbitfit.json"  # what marks a folder as one that was written here


def find_file(model: str, name: str) -> Path | None:
    """A file of a model, which is a folder or a hub id; None where it has none of this name."""
    if Path(model).is_dir():
        path = Path(model, name)
        return path if path.is_file() else None
    try:
        found = cached_file(
            model,
            name,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except (OSError, ValueError):  # no such model: loading it says so
        return None
    return None if found is None else Path(found)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """A draft beside ``folder``, which takes its place when all of it is written.

    What stood there goes if it was written so, and is else moved aside.
    """
    draft, old = (folder.with_name(f".{folder.name}.{end}") for end in ("new", "old"))
    for left in (draft, old):  # of a process that died
        shutil.rmtree(left, ignore_errors=True)
    draft.mkdir(parents=True)
    yield draft
    if folder.exists():
        folder.rename(old if (folder / DESCRIPTION).is_file() else _aside(folder))
    draft.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _aside(folder: Path) -> Path:
    """A name beside ``folder`` that is free."""
    names = (folder.with_name(f"{folder.name}.before-{number}") for number in count(1))
    return next(name for name in names if not name.exists())
