"""Files and folders that only this user and root can change.

Root can do anything here, and this process would read what its own user writes;
another user who could write to a policy could allow themselves everything.
"""

import os
import stat
from pathlib import Path

from dpbitfit.errors import InputError

_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def check_file(path: Path, descriptor: int) -> None:
    """Raise InputError where another user could change or replace an open file."""
    status = os.fstat(descriptor)
    if not _ours(status):
        raise InputError(f"{path}: another user owns it: chown root {path}")
    if status.st_mode & _OTHERS:
        raise InputError(f"{path}: others may write to it: chmod go-w {path}")
    for folder in {path.absolute().parent, path.resolve().parent}:  # of a link, both
        check_folder(folder)


def check_folder(folder: Path, of_any_owner: bool = False) -> None:
    """Raise InputError where another user could change what a folder holds.

    ``of_any_owner`` where it may be another user's own, for whom root asks.
    """
    try:
        status = folder.stat()
    except OSError as error:
        raise InputError(f"{folder}: cannot be used ({error.strerror})") from error
    if status.st_mode & _OTHERS or not (of_any_owner or _ours(status)):
        raise InputError(
            f"{folder}: others may write here: use a folder that only the guard or root may write"
        )


def _ours(status: os.stat_result) -> bool:
    return status.st_uid in (0, os.geteuid())
