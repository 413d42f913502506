"""What stands beside stored weights, so that they are loaded as a whole or refused.

A stored *model* is a folder of a whole model; an *adapter* holds only what was trained,
for the base model that it names. ``dpbitfit.json`` describes either.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dpbitfit.errors import InputError
from dpbitfit.faults import faults
from dpbitfit.schema import Part
from dpbitfit.tasks.text_classification.files import DESCRIPTION, file_digest, find_file
from dpbitfit.tasks.text_classification.pooling import Pooling
from dpbitfit.tasks.text_classification.settings import TextSettings
from dpbitfit.validate import Digest

TENSORS: Mapping[str, str] = {"model": "head.safetensors", "adapter": "adapter.safetensors"}


class Saved(Part):
    """All that an answer depends on beside the weights, and the digest of every file.

    ``base`` is the SHA-256 of the base model's weights before training, ``base_name`` what
    it was called.
    """

    format: Literal[1] = 1
    task: Literal["text-classification"] = "text-classification"
    kind: Literal["model", "adapter"]
    labels: tuple[str, ...]
    settings: TextSettings
    pooling: Pooling
    base_name: str
    base: Digest
    files: dict[str, Digest]

    def check_start(self, settings: TextSettings, labels: Sequence[str]) -> None:
        """InputError where training could not go on from here without a change of answers."""
        own = self.settings
        if self.kind == "adapter":
            raise InputError("an adapter is no model: train on its base, or on the whole result")
        if tuple(labels) != self.labels:
            raise InputError(
                "the model is a result for other labels, and has a head for those: give its own, "
                f"as they stand in its {DESCRIPTION}, or a model without a head"
            )
        if settings.logit_scale != own.logit_scale or (own.head, settings.head) == (
            "trained",
            "labels",
        ):
            raise InputError(
                "the model is a result with a head of its own: give "
                f"head={own.head!r} and logit-scale={own.logit_scale:g}, as it was trained"
            )


def write_saved(folder: Path, saved: Saved, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors and description into a folder that has all other files already."""
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    save_file(contiguous, folder / TENSORS[saved.kind])
    files = {name: file_digest(folder / name) for name in _files(folder)}
    text = saved.changed(files=files).model_dump_json(indent=2)
    (folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")


def read_saved(model: str) -> Saved | None:
    """The description in a folder or at a hub id; None for a model that was not written here.

    Raises InputError where a file is missing, was changed or came in addition.
    """
    path = find_file(model, DESCRIPTION)
    if path is None:
        return None
    try:
        saved = Saved.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise InputError(f"{path}: {next(faults(error, Saved))}") from error
    for name, digest in {TENSORS[saved.kind]: "", **saved.files}.items():
        file = find_file(model, name)
        if file is None or file_digest(file) != digest:
            fault = "is missing" if file is None else "is not what was saved"
            raise InputError(f"{model}: {name} {fault}: copy the whole folder again")
    if Path(model).is_dir() and (more := _files(Path(model)) - saved.files.keys()):
        raise InputError(f"{model}: {min(more)} was not saved with it: move it away")
    return saved


def read_start(model: str, settings: TextSettings, labels: Sequence[str]) -> Saved | None:
    """The description of a model from which training is to start, as ``read_saved``.

    Raises InputError, too, where the answers would change with it, and for a part of a
    result that lies there without a description.
    """
    saved = read_saved(model)
    if saved is not None:
        saved.check_start(settings, labels)
    elif any(find_file(model, name) for name in TENSORS.values()):
        raise InputError(f"{model}: is a part of a result: its {DESCRIPTION} is missing")
    return saved


def read_tensors(model: str, saved: Saved) -> dict[str, Tensor]:
    """The tensors beside a description; InputError where they cannot be read."""
    path = find_file(model, TENSORS[saved.kind])
    try:
        tensors: dict[str, Tensor] = load_file(str(path))
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    return tensors


def _files(folder: Path) -> set[str]:
    """Every file by its relative name, but the description itself and what loading never reads."""
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {
        name.as_posix()
        for name in names
        if name.as_posix() != DESCRIPTION
        and name.suffix != ".md"
        and not any(part.startswith(".") for part in name.parts)
    }
