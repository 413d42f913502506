"""The examples do what they say, as processes of their own."""

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import pytest

from dpbitfit import flower_tools, simulate

from ..conftest import ROOT
from ..support.shallow import NARROW_WIDTH, PARAMETERS, narrow_minilm

EXAMPLES = ROOT / "examples"


def test_the_engine_alone_learns_within_its_target() -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "engine_only.py")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = re.findall(r"step (\d+): loss (\S+)", done.stdout)
    assert [int(step) for step, _ in lines] == [20, 40, 60]
    assert float(lines[-1][1]) < 0.4 < 0.69  # that of a coin
    (epsilon,) = re.findall(r"epsilon (\S+) at delta 1e-5", done.stdout)
    assert 2.9 < float(epsilon) <= 3.0


def test_the_apps_configuration_is_that_of_the_project(project_config: dict[str, Any]) -> None:
    project = tomllib.loads((EXAMPLES / "flower_app" / "pyproject.toml").read_text())
    assert project["tool"]["flwr"]["app"]["config"] == project_config


@pytest.fixture(scope="module")
def out(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of ``flwr run examples/flower_app`` with two simulated sites."""
    out = tmp_path_factory.mktemp("out")
    config = {
        **{"data": str(corpus), "labels": str(corpus.with_suffix(".labels.txt")), "out": str(out)},
        **{"sites": 2, "phases": "class-sums,head,biases", "most-rounds": 3, "steps-per-round": 1},
        **{"max-length": 24, "test-fraction": 0.5, "model": narrow_minilm()},
    }
    given = " ".join(f"{key}={json.dumps(value)}" for key, value in config.items())
    log = out / "flower.log"
    with (
        tempfile.TemporaryDirectory(
            prefix="dpbitfit-", dir=simulate._short_folder(), ignore_cleanup_errors=True
        ) as home,
        simulate._superlink(Path(home).resolve(), log) as (environment, _),
        log.open("ab") as stream,
    ):
        subprocess.run(
            [
                *flower_tools.tool("flwr"),
                *("run", str(EXAMPLES / "flower_app"), "dpbitfit", "--stream"),
                *("--federation-config", "num-supernodes=2 client-resources-num-cpus=1"),
                *("--run-config", given),
            ],
            cwd=home,
            env=environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
            timeout=600,
        )
    assert (out / "summary.json").exists(), log.read_text()[-5000:]
    return out


def test_a_servers_own_strategy_trains_within_the_budget(out: Path) -> None:
    summary = json.loads((out / "summary.json").read_text())
    assert [line["replies"] for line in summary["rounds"]] == [0, 2, 2, 2]
    assert summary["budgets"].keys() == {"site-1/messages/record", "site-2/messages/record"}
    assert 7 < summary["epsilon"] <= 8
    assert (out / "model" / "model.safetensors").exists()


def test_a_clients_own_mod_saw_what_leaves(out: Path) -> None:
    """One vector of float32 values, of the head [24, width] alone or of all that trains."""
    log = (out / "flower.log").read_text()
    sizes = [int(size) for size in re.findall(r"arrays in bytes: \{'\w+': (\d+)\}", log)]
    assert sizes
    head = 24 * NARROW_WIDTH
    for size in sizes:
        assert any(0 <= size - 4 * values < 1_000 for values in (head, PARAMETERS + head + 24))
