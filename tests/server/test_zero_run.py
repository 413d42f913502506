"""A run of DPZero in one process: what crosses the network, what is charged, what is trained."""

import json
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dpbitfit_client import guard_client
from dpbitfit_client.guard import operations
from dpbitfit_server import strategy
from dpbitfit_server.progress import count_bytes

from dpbitfit.ledger import Ledger
from dpbitfit.protocol import flower
from dpbitfit.tasks.rounds import site_round

from ..support.shallow import shallow_minilm
from .test_app import run

K, STEPS = 8, 2
ZERO = {
    **{"phases": "class-sums,dp-zero", "head": "trained", "rounds": 2, "steps-per-round": STEPS},
    **{"directions": K, "sampling-rate": 0.1, "target-epsilon": 200.0, "max-length": 16},
    "learning-rate": 0.0,
}


@pytest.fixture(autouse=True)
def new_process() -> Any:
    guard_client._guards.clear()
    yield
    guard_client._guards.clear()


@pytest.fixture
def config(run_config: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    return {**run_config, **ZERO, "out": str(tmp_path)}


def test_sites_send_a_few_numbers_from_which_the_coordinator_has_their_changes(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent, moved, replayed = [], [], []

    def watched(task: Any, records: Any, cache: Any, start: Any, *others: Any) -> Any:
        released, state = site_round(task, records, cache, start, *others)
        if start.phase.kind == "dp-zero":
            sent.append(len(released))
            after = [task.model.get_parameter(name).detach() for name in task.layout.names]
            moved.append(np.concatenate([values.reshape(-1) for values in after]) - start.biases)
        return released, state

    def kept(self: Any, place: Any, clean: Any) -> Any:
        messages = changed(self, place, clean)
        for message in messages:
            array = message.content[self.inner.arrayrecord_key]["biases"].numpy()
            replayed.append(array - self._biases)
        return messages

    changed = strategy.PrivateStrategy._changed
    monkeypatch.setattr(operations, "site_round", watched)
    monkeypatch.setattr(strategy.PrivateStrategy, "_changed", kept)
    report = run(config)
    assert sent == [STEPS * K] * 4
    for own, again in zip(moved, replayed, strict=True):
        assert np.linalg.norm(own) > 0
        assert own == pytest.approx(again, abs=1e-5)
    assert not np.allclose(moved[0], moved[1])  # each site looks along directions of its own
    assert [line["phase"] for line in report["rounds"]] == ["class-sums", "dp-zero", "dp-zero"]
    assert [line["replies"] for line in report["rounds"]] == [2] * 3
    assert [phase["kind"] for phase in report["phases"]] == ["class-sums", "dp-zero"]
    assert report["phases"][1]["epsilon_alone"] < report["sites"][0]["guaranteed"] <= 200.0
    ledger = Ledger(f"{config['out']}/ledger/coordinator.sqlite", readonly=True)
    for account in ledger.accounts():
        held = ledger.allotments([account.id])[account.id].values()
        assert sorted(allotment.committed for allotment in held) == [1, 2 * STEPS]


def test_a_round_of_five_steps_of_64_directions_is_less_than_3_kb(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a site signs and sends: Flower's own containers come on top."""
    sizes = []

    def weighed(sent: Any, replies: Any) -> Any:
        for envelope in (flower.unpack(reply.content) for reply in replies):
            assert len(envelope.content) == 5 * 64 * 4
            sizes.append(sum(len(part) for part in astuple(envelope)))
        return count_bytes(sent, replies)

    monkeypatch.setattr(strategy, "count_bytes", weighed)
    settings: dict[str, Any] = {
        "rounds": 1,
        "steps-per-round": 5,
        "directions": 64,
        "sampling-rate": 0.01,
    }
    settings |= {"phases": "dp-zero", "head": "labels", "model": shallow_minilm()}
    report = run({**config, **settings})
    assert len(sizes) == 2
    assert max(sizes) < 3000
    (line,) = report["rounds"]
    assert line["bytes_up"] / 2 < 4000
    traffic = report["communication"]
    assert traffic["all_values_bytes"] > 8 * traffic["bytes_up_per_site_round"]
    page = (Path(config["out"]) / "report.html").read_text()
    assert "64 directions" in page


def test_a_run_goes_on_with_the_same_directions(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = strategy.PrivateStrategy.start

    def cut(self: Any, grid: Any, arrays: Any, **options: Any) -> Any:
        return begun(self, grid, arrays, num_rounds=2, **options)

    with monkeypatch.context() as patched:
        patched.setattr(strategy.PrivateStrategy, "start", cut)
        run(config)
    before = json.loads((Path(config["out"]) / "report.json").read_text())
    guard_client._guards.clear()
    after = run({**config, "resume": True})
    assert after["rounds"][:2] == before["rounds"]
    assert [line["phase"] for line in after["rounds"]] == ["class-sums", "dp-zero", "dp-zero"]
