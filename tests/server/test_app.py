"""A whole run in one process: Flower's own apps on both sides, the real model, the real report."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from dpbitfit_client.app import app as client_app
from dpbitfit_server import app
from flwr.app import Context, RecordDict
from safetensors.numpy import load_file
from transformers import AutoModel

from dpbitfit.engine.biases import SOFTMAX_KEY
from dpbitfit.errors import InputError
from dpbitfit.settings import RunSettings

from ..support import shallow
from ..support.grids import LocalGrid
from ..support.tasks import load_text

QUICK = {"rounds": 2, "steps-per-round": 2, "sampling-rate": 0.3, "noise-multiplier": 1.5}


def node(run_config: dict[str, Any], index: int) -> Any:
    context = Context(
        run_id=1,
        node_id=index + 10,
        node_config={"partition-id": index},
        state=RecordDict(),
        run_config=run_config,
    )
    return lambda message: client_app(message, context).content


@pytest.fixture
def config(run_config: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    return {**run_config, **QUICK, "out": str(tmp_path)}


def run(config: dict[str, Any]) -> dict[str, Any]:
    grid = LocalGrid({10 + i: node(config, i) for i in range(2)})
    return app.run(grid, RunSettings.read(config))


@pytest.fixture(scope="module")
def out(run_config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of one run, for the tests that only look at them."""
    folder = tmp_path_factory.mktemp("out")
    run({**run_config, **QUICK, "out": str(folder)})
    return folder


@pytest.fixture(scope="module")
def report(out: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((out / "report.json").read_text())
    return loaded


def test_the_report_is_complete(report: dict[str, Any], out: Path) -> None:
    assert {"model", "privacy", "sites", "rounds", "communication", "final"} <= set(report)
    assert set(report["model"]) >= {"name", "parameters", "trained_parameters"}
    ((why, names),) = report["model"]["not_trained"].items()
    assert (why, len(names)) == (SOFTMAX_KEY, 1)
    assert set(report["privacy"]) >= {"unit", "adjacency", "delta", "accountant", "noise"}
    for site in report["sites"]:
        assert set(site) >= {"name", "guaranteed", "delta", "budget", "rounds", "steps"}
        assert site["guaranteed"] <= site["budget"]
    for line in report["rounds"]:
        assert set(line) >= {"round", "metrics", "bytes_up", "bytes_down", "seconds"}
        assert set(line["metrics"]) == set(report["metrics"]) == {"accuracy", "loss"}
        assert (line["replies"], line["refused"]) == (2, 0)
    traffic = report["communication"]
    assert traffic["ratio"] == pytest.approx(
        traffic["full_weights_bytes"] / traffic["bytes_up_per_site_round"]
    )
    assert traffic["ratio"] > 800
    final, rounds = report["final"], report["rounds"]
    assert final["headline"] in report["metrics"]
    assert final["weights_moved"] > 0
    assert final["metrics"] == rounds[-1]["metrics"]
    assert set(final["initial"]) == set(report["metrics"])
    progress = [json.loads(line) for line in (out / "progress.jsonl").read_text().splitlines()]
    assert [line["round"] for line in progress] == [0, 1, 2]
    assert len({line["run"] for line in progress}) == 1
    by_account = json.loads((out / "traffic.json").read_text())
    totals = [sum(line[key] for line in progress) for key in ("bytes_down", "bytes_up")]
    assert [sum(both) for both in zip(*by_account.values(), strict=True)] == totals
    assert len(by_account) == len(report["sites"])


def test_the_page_stands_alone_and_escapes_what_it_shows(
    report: dict[str, Any], tmp_path: Path
) -> None:
    hostile = [{**site, "name": "<script>alert(1)</script>$\\nosuch$"} for site in report["sites"]]
    lost = {**report["rounds"][0], "metrics": dict.fromkeys(report["metrics"])}  # not finite
    rounds = [lost, *report["rounds"][1:]]
    app.write_report(tmp_path, {**report, "sites": hostile, "rounds": rounds})
    page = (tmp_path / "report.html").read_text()
    assert "<script>" not in page
    assert "http-equiv" not in page
    assert "src=" not in page
    assert f"Not trained, because {SOFTMAX_KEY}" in page
    assert page.count("<svg") == 2 + len(report["metrics"])
    for start in [i for i in range(len(page)) if page.startswith("<svg", i)]:
        ElementTree.fromstring(page[start : page.index("</svg>", start) + 6])


def test_a_complete_run_that_is_resumed_keeps_its_report(
    run_config: dict[str, Any], report: dict[str, Any], out: Path
) -> None:
    config = {**run_config, **QUICK, "out": str(out), "resume": True}
    assert app.run(LocalGrid({}), RunSettings.read(config)) == report
    assert json.loads((out / "report.json").read_text()) == report


def test_the_saved_model_is_the_trained_one(out: Path) -> None:
    model = AutoModel.from_pretrained(out / "model", add_pooling_layer=False)
    adapter = load_file(out / "adapter" / "adapter.safetensors")
    trained = {name: value for name, value in adapter.items() if name.startswith("backbone.")}
    assert len(trained) == shallow.TENSORS
    for name, value in trained.items():
        parameter = model.get_parameter(name.removeprefix("backbone."))
        assert (parameter.detach().numpy() == value).all()
    before = load_text(shallow.narrow_minilm(), ["a", "b"], "labels").model
    assert any(
        not np.array_equal(before.get_parameter(name).detach().numpy(), value)
        for name, value in trained.items()
    )


@pytest.mark.parametrize("strategy", ["fedadam", "fedmedian"])
def test_a_trained_head_persons_and_other_strategies(config: dict[str, Any], strategy: str) -> None:
    changes = {"head": "trained", "server-strategy": strategy, "unit-column": "customer"}
    report = run({**config, **changes, "rounds": 1})
    assert report["model"]["trained_parameters"] > shallow.PARAMETERS
    assert report["privacy"]["unit"] == "customer"
    assert report["final"]["weights_moved"] > 0


def test_a_failure_is_left_beside_the_results(config: dict[str, Any], tmp_path: Path) -> None:
    test = tmp_path / "test.csv"
    test.write_text("text,label\nhello,mortgage\n")
    context = Context(1, 1, {}, RecordDict(), {**config, "test-data": str(test)})
    with pytest.raises(InputError, match="row 1: its label"):
        app.app(LocalGrid({}), context)
    failure = json.loads((Path(config["out"]) / "error.json").read_text())
    assert failure["code"] == "bad-input"
    assert "mortgage" not in failure["message"]


def test_the_server_imports_without_torch() -> None:
    """Its machine may not have it: only the public evaluation does."""
    code = """
import sys

class Blocker:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in ("torch", "transformers"):
            raise ImportError(name)

sys.meta_path.insert(0, Blocker())
import dpbitfit.cli, dpbitfit_server.app, dpbitfit_server.report
"""
    subprocess.run([sys.executable, "-c", code], check=True)
