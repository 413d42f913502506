"""A site through Flower's own ClientApp: what it answers, what it refuses, what it keeps."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dpbitfit_client import service
from dpbitfit_client.app import app
from dpbitfit_client.guard import Guard
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

from dpbitfit import accounting, bias, codec
from dpbitfit.plan import Plan


class Site:
    """One simulated site and its context."""

    def __init__(self, run_config: dict[str, Any], node_config: dict[str, Any]) -> None:
        self.context = Context(
            run_id=1, node_id=2, node_config=node_config, state=RecordDict(), run_config=run_config
        )

    def ask(self, kind: str, content: RecordDict | None = None) -> RecordDict:
        message = Message(content or RecordDict(), dst_node_id=2, message_type=kind)
        return app(message, self.context).content

    def train(
        self,
        plan: Plan,
        biases: np.ndarray,
        key: str = "k" * 16,
        digest: str | None = None,
        replaced: dict[str, Any] | None = None,
    ) -> RecordDict:
        request = {"round": 1, "key": key, "plan_digest": digest or plan.digest}
        content = {
            "biases": codec.encode(biases),
            "plan": ConfigRecord(plan.to_config()),
            "request": ConfigRecord(request),
            **(replaced or {}),
        }
        return self.ask("train", RecordDict({k: v for k, v in content.items() if v is not None}))


@pytest.fixture
def site(run_config: dict[str, Any]) -> Site:
    return Site(run_config, {"partition-id": 0, "num-partitions": 2})


@pytest.fixture
def described(site: Site) -> ConfigRecord:
    return site.ask("query").config_records["statements"]


@pytest.fixture
def plan(described: ConfigRecord) -> Plan:
    return Plan(
        layout_digest=str(described["layout_digest"]),
        model_digest=str(described["model_digest"]),
        noise_multiplier=2.0,
        sampling_rate=0.2,
        rounds=2,
        steps_per_round=2,
        delta=1e-5,
    )


@pytest.fixture
def biases() -> np.ndarray:
    task = next(iter(service._guards.values())).task
    return bias.pack(task.model, task.layout)


def refusal(reply: RecordDict) -> str:
    assert set(reply) == {"statements"}
    statements = reply.config_records["statements"]
    assert set(statements) == {"refused"}
    return str(statements["refused"])


def test_a_description_holds_public_constants_only(described: ConfigRecord) -> None:
    assert set(described) == {
        *("site", "declared_size", "layout_digest", "model_digest", "parameters", "version"),
        "refused",
    }
    assert described["site"] == "site-1"
    assert described["parameters"] == 23_424
    assert described["declared_size"] == 50  # 48 records: to one digit, never the count


def test_a_trained_round_is_one_array_and_statements(
    site: Site, plan: Plan, biases: np.ndarray
) -> None:
    """Fails when anything else leaves: a record count, a loss, a norm."""
    reply = site.train(plan, biases)
    assert set(reply) == {"statements", "update"}
    assert set(reply.config_records["statements"]) == {
        *("site", "declared_size", "layout_digest", "model_digest", "parameters", "version"),
        *("plan_digest", "round", "refused"),
    }
    change = codec.decode(reply.array_records["update"], len(biases))
    assert 0 < np.linalg.norm(change) < plan.largest_update(len(biases), 50)
    assert not reply.metric_records


def test_the_same_key_gets_the_same_bytes_and_another_fresh_noise(
    site: Site, plan: Plan, biases: np.ndarray
) -> None:
    first = site.train(plan, biases, key="a" * 16)
    again = site.train(plan, biases, key="a" * 16)
    other = site.train(plan, biases, key="b" * 16)
    bytes_of = [reply.array_records["update"]["biases"].data for reply in (first, again, other)]
    assert bytes_of[0] == bytes_of[1] != bytes_of[2]
    state = site.context.state.config_records["memory"]
    assert json.loads(str(state["account"])) == {"steps": [[2.0, 0.2, 4]]}


def test_a_key_that_was_used_for_something_else_is_refused(
    site: Site, plan: Plan, biases: np.ndarray
) -> None:
    site.train(plan, biases, key="a" * 16)
    assert refusal(site.train(plan, biases + 1, key="a" * 16)) == "protocol"
    longer = replace(plan, steps_per_round=1)
    assert refusal(site.train(longer, biases, key="a" * 16)) == "protocol"


def test_a_site_stops_at_its_own_budget(site: Site, plan: Plan, biases: np.ndarray) -> None:
    """The coordinator cannot make it go on: not with another plan, not with another key."""
    dear = replace(plan, noise_multiplier=0.7, rounds=3, steps_per_round=1)
    replies = [site.train(dear, biases, key=f"{number:016}") for number in range(9)]
    trained = [reply for reply in replies if "update" in reply]
    assert 3 <= len(trained) < 9
    assert {refusal(reply) for reply in replies[len(trained) :]} == {"budget"}
    paid, refused = (
        accounting.epsilon({dear.mechanism: len(trained) + more}, 1e-5).epsilon for more in (0, 1)
    )
    assert paid <= 8.0 < refused
    another = replace(dear, learning_rate=0.1)
    assert refusal(site.train(another, biases, key="z" * 16)) == "budget"


def test_a_plan_that_costs_more_than_the_budget_is_refused_whole(
    site: Site, plan: Plan, biases: np.ndarray
) -> None:
    assert refusal(site.train(replace(plan, noise_multiplier=0.3), biases)) == "budget"
    assert refusal(site.train(replace(plan, rounds=100_000), biases)) == "budget"
    assert "memory" not in site.context.state


HOSTILE = [
    ({"sampling_rate": 1.5}, "bad-input"),
    ({"noise_multiplier": float("nan")}, "bad-input"),
    ({"noise_multiplier": 0.0}, "bad-input"),
    ({"noise_multiplier": 1e-3}, "accounting"),
    ({"rounds": -1}, "bad-input"),
    ({"steps_per_round": 10**7}, "bad-input"),
    ({"clipping_norm": float("inf")}, "bad-input"),
    ({"delta": 0.0}, "bad-input"),
    ({"noise": "none"}, "bad-input"),
    ({"layout_digest": "x"}, "protocol"),
    ({"model_digest": "x"}, "protocol"),
    ({"unit": "customer"}, "protocol"),
]


@pytest.mark.parametrize(("change", "code"), HOSTILE, ids=[next(iter(c)) for c, _ in HOSTILE])
def test_hostile_plans_are_refused_before_anything_is_spent(
    site: Site, plan: Plan, biases: np.ndarray, change: dict[str, Any], code: str
) -> None:
    assert refusal(site.train(replace(plan, **change), biases)) == code
    assert "memory" not in site.context.state


def test_malformed_requests_are_refused(site: Site, plan: Plan, biases: np.ndarray) -> None:
    assert refusal(site.train(plan, biases[:-1])) == "protocol"
    assert refusal(site.train(plan, np.full_like(biases, np.nan))) == "protocol"
    assert refusal(site.train(plan, biases, key="short")) == "protocol"
    assert refusal(site.train(plan, biases, digest="0" * 64)) == "protocol"
    assert refusal(site.train(plan, biases, replaced={"plan": None})) == "protocol"
    assert refusal(site.train(plan, biases, replaced={"request": None})) == "protocol"
    assert refusal(site.train(plan, biases, replaced={"biases": None})) == "protocol"
    assert refusal(site.train(plan, biases, replaced={"biases": ArrayRecord()})) == "protocol"
    assert refusal(site.ask("train")) == "protocol"
    assert "memory" not in site.context.state


def test_private_evaluation_is_refused(site: Site) -> None:
    assert refusal(site.ask("evaluate")) == "protocol"


def test_an_unexpected_failure_leaves_as_a_code_only(
    site: Site, plan: Plan, biases: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("row 7: my secret diagnosis")

    monkeypatch.setattr(Guard, "train", fail)
    assert refusal(site.train(plan, biases)) == "internal"
    # The attempt was charged before it began: nobody knows how far it came.
    account = site.context.state.config_records["memory"]["account"]
    assert json.loads(str(account)) == {"steps": [[2.0, 0.2, 2]]}


def test_a_real_site_takes_data_and_limits_from_its_node_only(
    run_config: dict[str, Any], corpus: Path
) -> None:
    hostile = {**run_config, "data": "/etc/passwd", "target-epsilon": 1e9, "declared-size": 1}
    node = {
        "name": "hospital-1",
        "data-path": str(corpus),
        "declared-size": 70,
        "target-epsilon": 0.5,
    }
    site = Site(hostile, node)
    described = site.ask("query").config_records["statements"]
    assert (described["site"], described["declared_size"]) == ("hospital-1", 70)
    plan = Plan(
        layout_digest=str(described["layout_digest"]),
        model_digest=str(described["model_digest"]),
        noise_multiplier=0.7,
        sampling_rate=0.2,
        rounds=2,
        steps_per_round=2,
        delta=1e-5,
    )
    biases = np.zeros(int(str(described["parameters"])), dtype=np.float32)
    assert refusal(site.train(plan, biases)) == "budget"
    fast = replace(plan, noise="fast-insecure", noise_multiplier=50.0)
    assert refusal(site.train(fast, biases)) == "protocol"


@pytest.mark.parametrize("missing", ["name", "declared-size", "target-epsilon"])
def test_a_real_site_without_its_limits_is_refused(
    run_config: dict[str, Any], corpus: Path, missing: str
) -> None:
    node = {"name": "h", "data-path": str(corpus), "declared-size": 70, "target-epsilon": 0.5}
    del node[missing]
    assert refusal(Site(run_config, node).ask("query")) == "bad-input"


def test_optimizer_moments_go_on_within_a_plan_only(
    site: Site, plan: Plan, biases: np.ndarray
) -> None:
    site.train(plan, biases, key="a" * 16)
    site.train(plan, biases, key="b" * 16)
    assert site.context.state.config_records["memory"]["step"] == 4
    site.train(replace(plan, learning_rate=1e-3), biases, key="c" * 16)
    assert site.context.state.config_records["memory"]["step"] == 2
