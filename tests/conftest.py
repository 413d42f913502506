"""What every test may use."""

import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import settings

from dpbitfit.data.corpus import write_corpus

from .support.shallow import narrow_minilm

# Tests start many processes side by side: threads that wait for one another would cost most of it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # where a test has more threads

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"

# A slow machine is no failure.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where workers share the files: the longest first, so that none ends long after the others."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: "integration" not in item.path.parts)


@pytest.fixture
def banking77() -> Path:
    """The banking77 folder; the test skips where it is absent."""
    folder = SHARED / "banking77"
    if not folder.exists():
        pytest.skip("the banking77 data set is not beside the checkout")
    return folder


@pytest.fixture(scope="session", autouse=True)
def flower_identity() -> None:
    """What Flower sets in its own processes, so that messages can be made here."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small generated corpus; its label set lies beside it."""
    path = tmp_path_factory.mktemp("corpus") / "messages.csv"
    write_corpus(path, records=120, seed=3)
    return path


@pytest.fixture(scope="session")
def project_config() -> dict[str, Any]:
    """The project's own run configuration."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    config: dict[str, Any] = project["tool"]["flwr"]["app"]["config"]
    return config


@pytest.fixture(scope="session")
def run_config(corpus: Path, project_config: dict[str, Any]) -> dict[str, Any]:
    """The project's own run configuration, on the small corpus, with the biases alone."""
    return {
        **project_config,
        "model": narrow_minilm(),
        "phases": "biases",
        "head": "labels",
        "rounds": 12,
        "steps-per-round": 5,
        "learning-rate": 2e-2,
        "data": str(corpus),
        "labels": str(corpus.with_suffix(".labels.txt")),
        "max-length": 24,
        "sites": 2,
    }
