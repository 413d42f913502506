"""Files and folders that nobody but this user and root can change.

Root can do anything here, and this process would read what its own user writes;
whoever else could put other words in a file could allow themselves everything.
"""

import os
import stat
from pathlib import Path

from dpbitfit.errors import InputError

_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def check_file(path: Path, descriptor: int) -> None:
    """Raise InputError where somebody else could change an open file, or put another there."""
    found = os.fstat(descriptor)
    if not _ours(found):
        raise InputError(f"{path}: another user owns it: chown root {path}")
    if found.st_mode & _OTHERS:
        raise InputError(f"{path}: others may write to it: chmod go-w {path}")
    for folder in {path.absolute().parent, path.resolve().parent}:  # of a link, both
        check_folder(folder)


def check_folder(folder: Path) -> None:
    """Raise InputError where somebody else could change what a folder holds."""
    try:
        found = folder.stat()
    except OSError as error:
        raise InputError(f"{folder}: cannot be used ({error.strerror})") from error
    if found.st_mode & _OTHERS or not _ours(found):
        raise InputError(
            f"{folder}: others may write here: use a folder that only the guard or root may write"
        )


def _ours(found: os.stat_result) -> bool:
    return found.st_uid in (0, os.geteuid())
