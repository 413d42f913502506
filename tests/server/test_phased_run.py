"""A run over all phases in one process: charged, resumed and reported phase by phase."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dpbitfit_client import guard_client
from dpbitfit_server import strategy

from dpbitfit.engine.groupwise import AdaptiveClipping
from dpbitfit.ledger import Ledger

from .test_app import run

# With 120 records only so large a target lets the head learn anything.
PHASED = {
    **{"phases": "class-sums,head,biases", "head": "trained", "most-rounds": 6, "rounds": 2},
    **{"steps-per-round": 1, "sampling-rate": 0.3, "target-epsilon": 200.0, "learning-rate": 0.0},
    "clipping": "adaptive",
}
ROUNDS = ["class-sums", "head", "head", "head", "biases", "biases"]


@pytest.fixture(autouse=True)
def new_process() -> Any:
    guard_client._guards.clear()
    yield
    guard_client._guards.clear()


@pytest.fixture
def config(run_config: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    return {**run_config, **PHASED, "out": str(tmp_path)}


def steps(config: dict[str, Any]) -> list[list[int]]:
    """What each account was charged, by mechanism, in the order of the plan."""
    ledger = Ledger(f"{config['out']}/ledger/coordinator.sqlite", readonly=True)
    charged = []
    for account in ledger.accounts():
        held = ledger.allotments([account.id])[account.id]
        order = sorted(held.items(), key=lambda item: item[0][1].noise_multiplier)
        assert all(held.left == held.reserved == 0 for held in dict(order).values())
        charged.append(sorted(allotment.committed for _, allotment in order))
    return charged


def test_every_phase_is_charged_and_reported(config: dict[str, Any]) -> None:
    report = run(config)
    assert [line["phase"] for line in report["rounds"]] == ROUNDS
    assert [line["replies"] for line in report["rounds"]] == [2] * 6
    assert steps(config) == [[1, 2, 3]] * 2
    assert [phase["kind"] for phase in report["phases"]] == ["class-sums", "head", "biases"]
    bounds = [phase["epsilon_alone"] for phase in report["phases"]]
    assert max(bounds) < report["sites"][0]["guaranteed"] <= 200.0
    bytes_up = [line["bytes_up"] for line in report["rounds"]]
    assert max(bytes_up[:4]) < min(bytes_up[4:])  # a phase sends what it trains, and no more
    first, last = report["phases"][0], report["phases"][-1]
    assert first["after"]["accuracy"] > first["before"]["accuracy"]
    assert last["after"] == report["final"]["metrics"]
    assert last["clipping"] == AdaptiveClipping().words
    assert first["clipping"] is None
    page = " ".join((Path(config["out"]) / "report.html").read_text().split())
    assert "class-sums, 1 round" in page
    assert f"biases, 2 rounds, gradients {last['clipping']}, epsilon" in page


@pytest.mark.parametrize("interrupted", [1, 3, 5])
def test_a_run_goes_on_in_the_middle_of_a_phase(
    interrupted: int, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = strategy.PrivateStrategy.start

    def cut(self: Any, grid: Any, arrays: Any, **options: Any) -> Any:
        return begun(self, grid, arrays, num_rounds=interrupted, **options)

    with monkeypatch.context() as patched:
        patched.setattr(strategy.PrivateStrategy, "start", cut)
        run(config)
    before = json.loads((Path(config["out"]) / "report.json").read_text())
    assert len(before["rounds"]) == interrupted
    guard_client._guards.clear()
    after = run({**config, "resume": True})
    assert after["rounds"][:interrupted] == before["rounds"]
    assert [line["phase"] for line in after["rounds"]] == ROUNDS
    assert steps(config) == [[1, 2, 3]] * 2
    assert np.isfinite(after["final"]["metrics"]["loss"])
