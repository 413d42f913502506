"""A model's folder is known by a digest of every file, and holds data only."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dpbitfit.errors import InputError
from dpbitfit.tasks.models import model_digest, resolve_model

FILES = {"model.safetensors": b"weights", "config.json": b"{}", "pooling/config.json": b"[]"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        path = tmp_path / "model" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "model"


def test_the_digest_is_that_of_names_sizes_and_bytes(folder: Path, tmp_path: Path) -> None:
    digest = model_digest(folder)
    folder.rename(tmp_path / "elsewhere")
    assert model_digest(tmp_path / "elsewhere") == digest
    assert len(digest) == 64


@pytest.mark.parametrize("name", list(FILES))
def test_every_file_counts(folder: Path, name: str) -> None:
    before = model_digest(folder)
    (folder / name).write_bytes(FILES[name] + b" ")
    changed = model_digest(folder)
    (folder / name).write_bytes(FILES[name])
    (folder / name).rename(folder / f"other-{Path(name).name}")
    assert len({before, changed, model_digest(folder)}) == 3


def test_bytes_cannot_move_from_one_file_to_the_next(folder: Path) -> None:
    (folder / "a").write_bytes(b"xy")
    (folder / "b").write_bytes(b"")
    before = model_digest(folder)
    (folder / "a").write_bytes(b"x")
    (folder / "b").write_bytes(b"y")
    assert model_digest(folder) != before


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.pt", "x.PKL", "deep/modeling.py", "optimizer.pth"]
)
def test_code_and_pickles_are_refused(folder: Path, name: str) -> None:
    (folder / "deep").mkdir()
    (folder / name).write_bytes(b"")
    with pytest.raises(InputError, match="safetensors only, no code"):
        model_digest(folder)


def test_what_is_no_folder_of_files_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no \.safetensors"):
        model_digest(tmp_path / "empty")
    for wrong in (tmp_path / "absent", folder / "config.json"):
        with pytest.raises(InputError, match="cannot be read"):
            model_digest(wrong)
    os.mkfifo(folder / "pipe")
    with pytest.raises(InputError, match="not a regular file"):
        model_digest(folder)


def test_links_to_files_count_as_files_and_links_to_folders_do_not(
    folder: Path, tmp_path: Path
) -> None:
    before = model_digest(folder)
    (folder / "config.json").rename(tmp_path / "blob")
    (folder / "config.json").symlink_to(tmp_path / "blob")
    assert model_digest(folder) == before
    (folder / "more").symlink_to(tmp_path)
    with pytest.raises(InputError, match="link to a folder"):
        model_digest(folder)


def test_the_packaged_model_is_found_and_other_names_are_taken_as_they_are() -> None:
    assert (Path(resolve_model("minilm")) / "model.safetensors").is_file()
    assert resolve_model("/srv/models/mine") == "/srv/models/mine"


def test_nothing_here_needs_torch() -> None:
    code = (
        "import sys; from pathlib import Path; from dpbitfit.tasks.models import *;"
        "model_digest(Path(resolve_model('minilm')));"
        "sys.exit(bool({'torch', 'transformers', 'flwr'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
