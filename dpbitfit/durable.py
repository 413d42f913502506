"""Files that a crash leaves whole: the old content or the new one."""

import os
from pathlib import Path


def replace(path: Path, content: bytes) -> None:
    """Give ``path`` new content, its owner's alone; on disk when this returns.

    Makes its folder where there is none. Raises OSError where it cannot be written.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.new")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
