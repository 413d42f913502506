"""A site through Flower's own ClientApp: what it answers, what it refuses, what it keeps."""

import functools
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dpbitfit_client import answer, service
from dpbitfit_client.app import app
from dpbitfit_client.guard import Guard
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

from dpbitfit import accounting, bias, codec
from dpbitfit.accounting import Mechanism
from dpbitfit.errors import AccountingError
from dpbitfit.ledger import Ledger, exchange
from dpbitfit.ledger.events import counts_to_text
from dpbitfit.plan import Plan
from dpbitfit.signing import verify
from dpbitfit.tasks import TextTask


class Site:
    """One simulated site and its context."""

    def __init__(self, run_config: dict[str, Any], node_config: dict[str, Any]) -> None:
        self.context = Context(
            run_id=1, node_id=2, node_config=node_config, state=RecordDict(), run_config=run_config
        )

        folder = run_config["site-ledgers"]
        self.coordinator = Ledger(f"{folder}/coordinator.sqlite", create=True)
        self.run = "run-1"
        self.claimed: Counter[Mechanism] = Counter()

    @property
    def ledger(self) -> Ledger:
        return next(iter(service._guards.values())).ledger

    def spent(self) -> dict[str, int]:
        """Steps of each state, from the site's own ledger."""
        found = {"reserved": 0, "committed": 0}
        for held in self.ledger.holdings([1])[1].values():
            found["reserved"] += held.reserved
            found["committed"] += held.committed
        return found

    def query(self) -> RecordDict:
        asked = ConfigRecord({"ledger": self.coordinator.id})
        return self.ask("query", RecordDict({"asked": asked}))

    def stand(self, plan: Plan, key: str, claimed: int = 10**6) -> ConfigRecord:
        """A coordinator's position that claims to hold so many steps of the plan."""
        name = self.ledger.accounts()[0].name
        account = self.coordinator.open_account(name, 1e-5, 8.0)
        mine = exchange.position(
            self.coordinator, account, self.coordinator.id, self.ledger.id, key
        )
        with suppress(AccountingError):
            self.claimed[plan.mechanism] = claimed
        steps = counts_to_text(self.claimed)
        return ConfigRecord({**replace(mine, spent=steps).to_config(self.coordinator)})

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
        chosen = {"run": self.run, "round": 1, "key": key}
        request = {**chosen, "plan_digest": digest or plan.digest}
        content = {
            "biases": codec.encode(biases),
            "plan": ConfigRecord(plan.to_config()),
            "request": ConfigRecord(request),
            "position": self.stand(plan, key),
            **(replaced or {}),
        }
        return self.ask("train", RecordDict({k: v for k, v in content.items() if v is not None}))


_load = functools.cache(TextTask.load)


@pytest.fixture(autouse=True)
def new_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No guard is warm; only the model, which is the same for all, is loaded once."""
    monkeypatch.setattr(TextTask, "load", _load)
    service._guards.clear()
    yield
    service._guards.clear()


@pytest.fixture
def site(run_config: dict[str, Any], tmp_path: Path) -> Site:
    config = {**run_config, "site-ledgers": str(tmp_path)}
    return Site(config, {"partition-id": 0, "num-partitions": 2})


@pytest.fixture
def described(site: Site) -> ConfigRecord:
    return site.query().config_records["statements"]


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
    """The code of a refusal, which holds nothing but codes, constants and the ledger's position."""
    assert set(reply) <= {"statements", "position"}
    statements = reply.config_records["statements"]
    assert set(statements) <= {*DESCRIBED, "refused", "untouched"}
    return str(statements["refused"])


DESCRIBED = {
    *("site", "dataset", "unit", "declared_size"),
    *("layout_digest", "model_digest", "parameters", "version"),
}


def test_a_description_holds_public_constants_only(described: ConfigRecord) -> None:
    assert set(described) == DESCRIBED | {"refused"}
    assert described["site"] == "site-1"
    assert described["parameters"] == 23_424
    assert described["declared_size"] == 50  # 48 records: to one digit, never the count


def test_a_trained_round_is_one_array_and_statements(
    site: Site, plan: Plan, biases: np.ndarray
) -> None:
    """Fails when anything else leaves: a record count, a loss, a norm."""
    reply = site.train(plan, biases)
    assert set(reply) == {"statements", "position", "update"}
    stated = {"plan_digest", "round", "refused"}
    assert set(reply.config_records["statements"]) == DESCRIBED | stated
    assert set(reply.config_records["position"]) == {
        *("ledger", "sequence", "head", "spent", "seen_sequence", "seen_head", "key"),
        "signature",
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
    assert site.spent() == {"reserved": 0, "committed": 4}


def test_a_key_that_was_used_for_something_else_is_refused(
    site: Site, plan: Plan, biases: np.ndarray
) -> None:
    site.train(plan, biases, key="a" * 16)
    assert refusal(site.train(plan, biases + 1, key="a" * 16)) == "protocol"
    longer = replace(plan, steps_per_round=1)
    assert refusal(site.train(longer, biases, key="a" * 16)) == "protocol"


def test_a_site_stops_at_its_own_budget(site: Site, plan: Plan, biases: np.ndarray) -> None:
    """The coordinator cannot make it go on: not with another plan, not with another key."""
    replies = [site.train(plan, biases, key=f"{number:016}") for number in range(4)]
    assert ["update" in reply for reply in replies] == [True, True, False, False]
    assert {refusal(reply) for reply in replies[2:]} == {"budget"}
    for number in range(3):
        site.run = f"another-{number}"
        reply = site.train(replace(plan, noise_multiplier=0.7), biases, key=f"b{number:016}")
    assert refusal(reply) == "budget"
    everything = Counter()
    for (_, mechanism), held in site.ledger.holdings([1])[1].items():
        everything[mechanism] += held.allotted
    assert accounting.epsilon(everything, 1e-5).epsilon <= 8.0


def test_an_untouched_refusal_is_signed_and_its_key_is_dead(
    site: Site, plan: Plan, biases: np.ndarray
) -> None:
    refused = site.train(replace(plan, model_digest="x"), biases, key="a" * 16)
    statements = refused.config_records["statements"]
    verify(site.ledger.id, "untouched", {"key": "a" * 16}, str(statements["untouched"]))
    assert refusal(site.train(plan, biases, key="a" * 16)) == "protocol"
    assert site.spent() == {"reserved": 0, "committed": 0}
    site.train(plan, biases, key="b" * 16)
    again = site.train(plan, biases + 1, key="b" * 16)
    assert again.config_records["statements"]["untouched"] == ""


def test_a_coordinator_whose_record_is_behind_is_refused(
    site: Site, plan: Plan, biases: np.ndarray
) -> None:
    """A coordinator that restored a backup would count too little."""
    site.train(plan, biases, key="a" * 16)
    behind = {"position": site.stand(plan, "b" * 16, claimed=2)}
    assert refusal(site.train(plan, biases, key="b" * 16, replaced=behind)) == "ledger"
    assert refusal(site.train(plan, biases, key="c" * 16)) == "ledger"  # until it is settled
    assert site.spent() == {"reserved": 0, "committed": 2}


def test_a_position_of_another_round_or_signer_is_refused(
    site: Site, plan: Plan, biases: np.ndarray
) -> None:
    other = {"position": site.stand(plan, "b" * 16)}
    assert refusal(site.train(plan, biases, replaced=other)) == "protocol"
    forged = site.stand(plan, "k" * 16)
    forged["sequence"] = 99
    assert refusal(site.train(plan, biases, replaced={"position": forged})) == "protocol"
    assert site.spent() == {"reserved": 0, "committed": 0}


def test_a_plan_that_costs_more_than_the_budget_is_refused_whole(
    site: Site, plan: Plan, biases: np.ndarray
) -> None:
    assert refusal(site.train(replace(plan, noise_multiplier=0.3), biases)) == "budget"
    assert refusal(site.train(replace(plan, rounds=100_000), biases)) == "budget"
    assert site.spent() == {"reserved": 0, "committed": 0}


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
    assert site.spent() == {"reserved": 0, "committed": 0}


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
    assert site.spent() == {"reserved": 0, "committed": 0}


def test_private_evaluation_is_refused(site: Site) -> None:
    assert refusal(site.ask("evaluate")) == "protocol"


def test_an_unexpected_failure_leaves_as_a_code_only(
    site: Site, plan: Plan, biases: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("row 7: my secret diagnosis")

    monkeypatch.setattr(Guard, "_train", fail)
    assert refusal(site.train(plan, biases)) == "internal"
    # The attempt was charged before it began: nobody knows how far it came.
    assert site.spent() == {"reserved": 2, "committed": 0}


def test_a_real_site_takes_data_and_limits_from_its_node_only(
    run_config: dict[str, Any], corpus: Path, tmp_path: Path
) -> None:
    service._guards.clear()
    hostile = {
        **run_config,
        "site-ledgers": str(tmp_path),
        "data": "/etc/passwd",
        "target-epsilon": 1e9,
        "declared-size": 1,
    }
    node = {
        "name": "hospital-1",
        "data-path": str(corpus),
        "declared-size": 70,
        "target-epsilon": 0.5,
        "ledger": str(tmp_path / "site.sqlite"),
    }
    site = Site(hostile, node)
    described = site.query().config_records["statements"]
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


@pytest.mark.parametrize("missing", ["name", "declared-size", "target-epsilon", "ledger"])
def test_a_real_site_without_its_limits_is_refused(
    run_config: dict[str, Any], corpus: Path, missing: str, tmp_path: Path
) -> None:
    node = {"name": "h", "data-path": str(corpus), "declared-size": 70, "target-epsilon": 0.5}
    node["ledger"] = str(tmp_path / "site.sqlite")
    del node[missing]
    config = {**run_config, "site-ledgers": str(tmp_path)}
    assert refusal(Site(config, node).query()) == "bad-input"


def test_optimizer_moments_go_on_within_a_run_only(
    site: Site, plan: Plan, biases: np.ndarray
) -> None:
    def step() -> int:
        kept = site.ledger.last_reply(site.ledger.accounts()[0], site.run)
        return answer.state_of(kept.payload if kept else None).step

    site.train(plan, biases, key="a" * 16)
    service._guards.clear()  # as when the process was killed and began anew
    site.query()
    site.train(plan, biases, key="b" * 16)
    assert step() == 4
    site.run = "run-2"
    site.train(plan, biases, key="c" * 16)
    assert step() == 2
