"""Files that a crash leaves whole: the old content or the new one."""

import os
from contextlib import suppress
from pathlib import Path


def replace(path: Path, content: bytes) -> None:
    """Give ``path`` new content, its folder's owner's alone; on disk when this returns.

    Makes its folder where there is none. Raises OSError where it cannot be written.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.new")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        leave_to_owner(file.fileno(), path.parent)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def leave_to_owner(descriptor: int, beside: Path) -> None:
    """Give a file that root has made to the owner of what it lies beside, who has to use it."""
    if os.geteuid() == 0:
        owner = beside.stat()
        with suppress(OSError):  # of a root that may not
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
