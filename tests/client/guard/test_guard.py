"""A simulated site through Flower's own ClientApp: what it answers, refuses and keeps."""

import functools
import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dpbitfit_client import guard_client, simulated
from dpbitfit_client.app import app
from dpbitfit_client.guard import guard as guard_module
from dpbitfit_client.guard import operations, stored_reply
from dpbitfit_client.guard.accounts import Accounts
from dpbitfit_client.guard.guard import Guard
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

from dpbitfit.accounting import composition
from dpbitfit.engine.biases import read_biases
from dpbitfit.engine.groupwise import AdaptiveClipping
from dpbitfit.ledger import Ledger
from dpbitfit.ledger.begin import site_path
from dpbitfit.plan import Plan
from dpbitfit.protocol.codec import FLOAT32
from dpbitfit.protocol.envelope import Envelope
from dpbitfit.protocol.flower import pack, unpack
from dpbitfit.protocol.messages import Description, Refusal, TrainReply
from dpbitfit.protocol.signing import verify
from dpbitfit.settings import RunSettings
from dpbitfit.tasks.text_classification.task import TextClassification

from ...support import plans
from ...support.coordinators import Coordinator, changed
from ...support.shallow import PARAMETERS, TENSORS


class Site:
    """One simulated site and its context."""

    def __init__(self, run_config: dict[str, Any], node_config: dict[str, Any]) -> None:
        self.context = Context(
            run_id=1, node_id=2, node_config=node_config, state=RecordDict(), run_config=run_config
        )
        folder = Path(run_config["out"])
        self.coordinator = Coordinator(folder)
        self.coordinator.site = site_path(folder / "ledger" / "sites", "site-1")
        dataset = run_config["dataset"] or Path(run_config["data"]).stem
        unit = run_config["unit-column"] or "record"
        self.coordinator.accounts["train"] = f"site-1/{dataset}/{unit}"

    @property
    def guard(self) -> Guard:
        return next(iter(guard_client._guards.values()))  # type: ignore[return-value]

    @property
    def ledger(self) -> Ledger:
        return self.guard.ledger

    def spent(self) -> dict[str, int]:
        """Steps of each state, from the site's own ledger."""
        result = {"reserved": 0, "committed": 0}
        for held in self.ledger.allotments([1])[1].values():
            result["reserved"] += held.reserved
            result["committed"] += held.committed
        return result

    def send(self, kind: str, envelope: Envelope) -> Envelope:
        return unpack(self.deliver(kind, pack(envelope)))

    def deliver(self, kind: str, content: RecordDict) -> RecordDict:
        message = Message(content, dst_node_id=2, message_type=kind)
        return app(message, self.context).content

    def query(self, plan: Plan) -> Envelope:
        return self.send("query", self.coordinator.question(plan))

    def train(self, plan: Plan, biases: np.ndarray, /, **options: Any) -> Envelope:
        return self.send("train", self.coordinator.request(plan, biases, **options))


_attach = functools.cache(guard_module.attach)


@pytest.fixture(autouse=True)
def new_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No guard is warm; only the model, which is the same for all, is loaded once."""
    monkeypatch.setattr(guard_module, "attach", _attach)
    monkeypatch.setattr(simulated, "_shared_task", _attach)
    guard_client._guards.clear()
    yield
    guard_client._guards.clear()


@pytest.fixture
def site(run_config: dict[str, Any], tmp_path: Path) -> Site:
    config = {**run_config, "out": str(tmp_path)}
    return Site(config, {"partition-id": 0, "num-partitions": 2})


@pytest.fixture
def task(site: Site) -> TextClassification:
    assert site.query(PLAN).signature
    (loaded,) = site.guard.tasks._loaded.values()
    return loaded.task


@pytest.fixture
def plan(task: TextClassification) -> Plan:
    return plans.plan(PLAN, layout_digest=task.layout.digest, model_digest=task.digest)


@pytest.fixture
def biases(task: TextClassification) -> np.ndarray:
    return read_biases(task.model, task.layout)


PLAN = plans.plan(
    noise_multiplier=2.0,
    sampling_rate=0.2,
    rounds=2,
    steps_per_round=2,
    max_length=24,
)


def fields(envelope: Envelope) -> dict[str, Any]:
    """What a statement states."""
    values: dict[str, Any] = json.loads(envelope.statement)
    return values


def refusal(reply: Envelope) -> str:
    """The code of a refusal, which holds nothing but codes, constants and the ledger's head."""
    assert reply == Envelope(reply.statement)
    assert set(fields(reply)) == {"code", "key", "untouched", "head"}
    return Refusal.decode(reply.statement).code


FACTS = {
    *("site", "dataset", "unit", "declared_size"),
    *("layout_digest", "model_digest", "parameters", "version"),
}
HEAD = {
    *("ledger", "account", "coordinator", "sequence", "head", "spent", "runs", "rebased"),
    *("seen_sequence", "seen_head", "key", "signature"),
}


def test_a_description_holds_public_constants_only(site: Site) -> None:
    reply = site.query(PLAN)
    assert not reply.content
    description = fields(reply)
    assert set(description) == {"facts", "labels", "rounds_left", "evaluation", "head"}
    assert set(description["facts"]) == FACTS
    assert set(description["head"]) == HEAD
    assert description["evaluation"] is None
    assert description["facts"]["site"] == "site-1"
    assert description["facts"]["parameters"] == PARAMETERS
    # Half the records to one digit, never the count.
    assert description["facts"]["declared_size"] == 50


def test_a_trained_round_is_one_array_and_statements(
    site: Site, plan: Plan, biases: np.ndarray
) -> None:
    """Fails when anything else leaves: a record count, a loss, a norm."""
    record = site.deliver("train", pack(site.coordinator.request(plan, biases)))
    assert set(record) == {"envelope", "content"}
    assert set(record.config_records["envelope"]) == {"statement", "sender", "signature"}
    reply = unpack(record)
    assert set(fields(reply)) == {"facts", "plan_digest", "round", "key", "head"}
    assert set(fields(reply)["facts"]) == FACTS
    assert set(fields(reply)["head"]) == HEAD
    change = FLOAT32.decode(reply.content, len(biases))
    assert 0 < np.linalg.norm(change) < plan.phases[0].largest_update(len(biases), 50)


def test_the_same_key_gets_the_same_bytes_and_another_fresh_noise(
    site: Site, plan: Plan, biases: np.ndarray
) -> None:
    first = site.train(plan, biases, key="a" * 16)
    again = site.train(plan, biases, key="a" * 16)
    other = site.train(plan, biases, key="b" * 16)
    assert first.content == again.content != other.content
    assert site.spent() == {"reserved": 0, "committed": 4}


def test_a_key_that_was_used_for_something_else_is_refused(
    site: Site, plan: Plan, biases: np.ndarray
) -> None:
    site.train(plan, biases, key="a" * 16)
    assert refusal(site.train(plan, biases + 1, key="a" * 16)) == "protocol"
    longer = plans.plan(plan, steps_per_round=1)
    assert refusal(site.train(longer, biases, key="a" * 16)) == "protocol"


def test_a_site_stops_at_its_own_budget(site: Site, plan: Plan, biases: np.ndarray) -> None:
    """The coordinator cannot make it go on: not with another plan, not with another key."""
    replies = [site.train(plan, biases, key=f"{number:016}") for number in range(4)]
    assert [bool(reply.content) for reply in replies] == [True, True, False, False]
    assert {refusal(reply) for reply in replies[2:]} == {"budget"}
    for number in range(3):
        site.coordinator.run = f"another-{number}"
        reply = site.train(plans.plan(plan, noise_multiplier=0.7), biases, key=f"b{number:016}")
    assert refusal(reply) == "budget"
    everything = Counter()
    for (_, mechanism), held in site.ledger.allotments([1])[1].items():
        everything[mechanism] += held.allotted
    assert composition.epsilon(everything, 1e-5).epsilon <= 8.0


def test_a_budget_that_is_lowered_ends_a_run_untouched_and_for_good(
    site: Site, plan: Plan, biases: np.ndarray
) -> None:
    assert site.train(plan, biases, key="a" * 16).content
    (account,) = site.ledger.accounts()
    site.ledger.set_budget(account.name, 0.1, "the board")
    refused = site.train(plan, biases, key="b" * 16)
    assert refusal(refused) == "budget"
    verify(site.ledger.id, "untouched", {"key": "b" * 16}, fields(refused)["untouched"])
    site.ledger.set_budget(account.name, 8.0, "the board")
    assert refusal(site.train(plan, biases, key="c" * 16)) == "budget"
    assert site.spent() == {"reserved": 0, "committed": 2}
    again = site.train(plan, biases, key="a" * 16)  # what was answered is still answered
    assert again.content
    site.coordinator.run = "another"
    assert site.train(plan, biases, key="d" * 16).content
    site.ledger.verify(account)


def test_an_untouched_refusal_is_signed_and_its_key_is_dead(
    site: Site, plan: Plan, biases: np.ndarray
) -> None:
    refused = site.train(plans.plan(plan, model_digest="x"), biases, key="a" * 16)
    verify(site.ledger.id, "untouched", {"key": "a" * 16}, fields(refused)["untouched"])
    assert refusal(site.train(plan, biases, key="a" * 16)) == "protocol"
    assert site.spent() == {"reserved": 0, "committed": 0}
    site.train(plan, biases, key="b" * 16)
    again = site.train(plan, biases + 1, key="b" * 16)
    assert fields(again)["untouched"] == ""


def test_a_coordinator_whose_record_is_behind_is_refused(
    site: Site, plan: Plan, biases: np.ndarray
) -> None:
    """A coordinator that restored a backup would count too little."""
    site.train(plan, biases, key="a" * 16)
    behind = site.coordinator.head({plan.phases[0].mechanism: 2}, "b" * 16)
    assert refusal(site.train(plan, biases, key="b" * 16, head=behind)) == "drift"
    assert refusal(site.train(plan, biases, key="c" * 16)) == "drift"  # until it is settled
    assert site.spent() == {"reserved": 0, "committed": 2}


def test_a_head_of_another_round_signer_or_ledger_is_refused(
    site: Site, plan: Plan, biases: np.ndarray, tmp_path: Path
) -> None:
    other = site.coordinator.head({}, "b" * 16)
    assert refusal(site.train(plan, biases, head=other)) == "protocol"
    forged = {**site.coordinator.head({}, "k" * 16), "sequence": 99}
    assert refusal(site.train(plan, biases, head=forged)) == "identity"
    (tmp_path / "another").mkdir()
    another = Coordinator(tmp_path / "another")
    another.accounts = site.coordinator.accounts
    borrowed = another.head({plan.phases[0].mechanism: 2}, "k" * 16)
    assert refusal(site.train(plan, biases, head=borrowed)) == "identity"
    assert site.spent() == {"reserved": 0, "committed": 0}


def test_a_plan_that_costs_more_than_the_budget_is_refused_whole(
    site: Site, plan: Plan, biases: np.ndarray
) -> None:
    assert refusal(site.train(plans.plan(plan, noise_multiplier=0.3), biases)) == "budget"
    assert refusal(site.train(plans.plan(plan, rounds=100_000), biases, key="l" * 16)) == "budget"
    assert site.spent() == {"reserved": 0, "committed": 0}


ADAPTIVE = json.loads(AdaptiveClipping().encode())
HOSTILE = [
    ({"sampling_rate": 1.5}, "bad-input"),
    ({"noise_multiplier": float("nan")}, "bad-input"),
    ({"noise_multiplier": 0.0}, "bad-input"),
    ({"noise_multiplier": 1e-3}, "bad-input"),
    ({"rounds": -1}, "bad-input"),
    ({"steps_per_round": 10**7}, "bad-input"),
    ({"clipping_norm": float("inf")}, "bad-input"),
    ({"clipping_part": {**ADAPTIVE, "quantile_cost": 0.0}}, "bad-input"),
    ({"clipping_part": {**ADAPTIVE, "groups": {"rule": "per-layer", "norm": 1e7}}}, "bad-input"),
    (
        {"clipping_part": {**ADAPTIVE, "groups": {"rule": "per-stage", "stages": 10**9}}},
        "bad-input",
    ),
    ({"clipping_part": {**ADAPTIVE, "groups": [[0, 1], [1, 2]]}}, "protocol"),
    ({"delta": 0.0}, "bad-input"),
    ({"noise": "none"}, "bad-input"),
    ({"layout_digest": "x"}, "protocol"),
    ({"model_digest": "x"}, "protocol"),
    ({"unit": "customer"}, "policy"),
]


@pytest.mark.parametrize(("change", "code"), HOSTILE, ids=[next(iter(c)) for c, _ in HOSTILE])
def test_hostile_plans_are_refused_before_anything_is_spent(
    site: Site, plan: Plan, biases: np.ndarray, change: dict[str, Any], code: str
) -> None:
    assert refusal(site.train(plans.forged(plan, **change), biases)) == code
    assert site.spent() == {"reserved": 0, "committed": 0}


def test_malformed_requests_are_refused(site: Site, plan: Plan, biases: np.ndarray) -> None:
    assert refusal(site.train(plan, biases[:-1])) == "protocol"
    assert refusal(site.train(plan, np.full_like(biases, np.nan))) == "protocol"
    for wrong in (
        *({"key": "short"}, {"round": ...}, {"round": 0}, {"round": "1"}, {"run": ""}),
        *({"plan": ...}, {"plan": ""}, {"plan": "[]"}, {"plan": plan.encode().decode() + " "}),
        *({"head": ...}, {"head": None}, {"head": {}}, {"records": 60}),
    ):
        assert refusal(site.train(plan, biases, **{"key": "k" * 16, **wrong})) == "protocol", wrong
    assert refusal(site.train(plan, biases[:0])) == "protocol"
    whole = pack(site.coordinator.request(plan, biases))
    for record in (
        RecordDict(),
        RecordDict({"content": whole["content"]}),
        RecordDict({**whole, "content": ArrayRecord()}),
        RecordDict({**whole, "more": ConfigRecord()}),
    ):
        assert refusal(unpack(site.deliver("train", record))) == "protocol"
    assert site.spent() == {"reserved": 0, "committed": 0}


def test_private_evaluation_is_refused_where_no_policy_allows_it(
    site: Site, plan: Plan, biases: np.ndarray
) -> None:
    measuring = plans.plan(plan, metrics="accuracy", evaluations=1)
    request = site.coordinator.request(measuring, biases, purpose="evaluate")
    assert refusal(site.send("evaluate", request)) == "policy"


@pytest.mark.parametrize("field", ["plan", "round", "key", "biases", "run", "head", "purpose"])
def test_a_request_that_its_coordinator_did_not_sign_is_refused(
    site: Site, plan: Plan, biases: np.ndarray, field: str
) -> None:
    request = site.coordinator.request(
        plan, biases, purpose="evaluate" if field == "purpose" else "train"
    )
    if field == "biases":
        request = replace(request, content=FLOAT32.encode(biases + 1))
    elif field == "key":  # with a head that its coordinator did sign for it
        head = site.coordinator.head({plan.phases[0].mechanism: 10**6}, "l" * 16)
        request = changed(request, key="l" * 16, head=head)
    elif field != "purpose":
        others = {
            "plan": plans.plan(plan, learning_rate=0.5).encode().decode(),
            "round": 2,
            "run": "another",
            "head": site.coordinator.head({plan.phases[0].mechanism: 10**7}, "k" * 16),
        }
        request = changed(request, **{field: others[field]})
    assert refusal(site.send("train", request)) == "identity"
    assert site.spent() == {"reserved": 0, "committed": 0}


def test_every_reply_is_signed_by_the_site(site: Site, plan: Plan, biases: np.ndarray) -> None:
    for reply, kind in (
        (site.query(plan), Description),
        (site.train(plan, biases), TrainReply),
    ):
        assert reply.sender == site.ledger.id
        message: Description | TrainReply = reply.read(kind, "reply")
        assert message.head.ledger == site.ledger.id


@pytest.mark.parametrize("text", ["row 7: my secret diagnosis", "my-secret-diagnosis"])
def test_an_unexpected_failure_leaves_as_a_code_only(
    site: Site, plan: Plan, biases: np.ndarray, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """Though its text looks like a code."""

    def fail(*_: Any, **__: Any) -> None:
        raise ValueError(text)

    with monkeypatch.context() as broken:
        broken.setattr(Accounts, "approve", fail)
        reply = site.train(plan, biases)
    assert refusal(reply) == "internal"
    assert fields(reply)["untouched"]
    assert site.spent() == {"reserved": 0, "committed": 0}
    monkeypatch.setattr(operations, "site_round", fail)
    reply = site.train(plan, biases, key="b" * 16)
    assert refusal(reply) == "round-failed"
    assert fields(reply)["untouched"] == ""
    # The attempt was charged before it began: how far it came is not known.
    assert site.spent() == {"reserved": 0, "committed": 2}


@pytest.mark.parametrize("text", ["letters.csv: my secret diagnosis", "my-secret-diagnosis"])
def test_what_a_relay_itself_fails_at_leaves_as_a_code_only(
    site: Site, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError(text)

    monkeypatch.setattr("dpbitfit_client.app.guard_of", fail)
    assert refusal(site.query(PLAN)) == "internal"


def test_a_node_without_a_guard_is_refused(run_config: dict[str, Any], tmp_path: Path) -> None:
    config = {**run_config, "out": str(tmp_path)}
    node = {"data-path": run_config["data"], "target-epsilon": 8.0, "ledger": "x"}
    assert refusal(Site(config, node).query(PLAN)) == "bad-input"


def test_optimizer_moments_go_on_within_a_run_only(
    site: Site, plan: Plan, biases: np.ndarray
) -> None:
    def step() -> int:
        kept = site.ledger.last_reply(site.ledger.accounts()[0], site.coordinator.run)
        return stored_reply.state_of(kept.payload if kept else None, 0).step

    site.train(plan, biases, key="a" * 16)
    guard_client._guards.clear()  # as when the process was killed and began anew
    site.query(plan)
    site.train(plan, biases, key="b" * 16)
    assert step() == 4
    site.coordinator.run = "run-2"
    site.train(plan, biases, key="c" * 16)
    assert step() == 2


def test_adaptive_norms_go_on_within_a_run_only_and_cost_nothing_beside_the_steps(
    site: Site, plan: Plan, biases: np.ndarray
) -> None:
    """Also after a kill; and a reply that is asked for again neither moves nor costs anything."""
    phase = plan.phases[0].changed(clipping=AdaptiveClipping())
    plan = plan.changed(phases=(phase,))

    def norms() -> np.ndarray:
        last = site.ledger.last_reply(site.ledger.accounts()[0], site.coordinator.run)
        assert last is not None
        stored = stored_reply.state_of(last.payload, 0).norms
        assert stored is not None
        return stored

    first = site.train(plan, biases, key="a" * 16)
    begun = norms()
    assert len(begun) == TENSORS
    guard_client._guards.clear()  # as when the process was killed and began anew
    site.query(plan)
    assert site.train(plan, biases, key="a" * 16).content == first.content
    assert (norms() == begun).all()
    site.train(plan, biases, key="b" * 16)
    start = 1 / np.sqrt(len(begun))
    furthest = 0.3 * 0.5 * 2 + 1e-9  # two steps, whatever the noise
    for before, after in ((start, begun), (begun, norms())):
        moved = np.abs(np.log(after / before))
        assert moved.any()
        assert moved.max() <= furthest
    assert site.spent() == {"reserved": 0, "committed": 4}
    site.coordinator.run = "run-2"
    site.train(plan, biases, key="c" * 16)
    assert np.abs(np.log(norms() / start)).max() <= furthest


def test_an_honest_run_is_nowhere_near_the_farthest_that_biases_may_be(
    site: Site, task: TextClassification, run_config: dict[str, Any]
) -> None:
    """The run configuration as it is; and where another run may go on from its end."""
    phase = RunSettings.read(run_config | {"out": "out"}).phase
    rounds, steps = phase.rounds, phase.steps_per_round
    honest = plans.plan(
        PLAN,
        layout_digest=task.layout.digest,
        model_digest=task.digest,
        rounds=rounds,
        steps_per_round=steps,
        clipping=phase.clipping.function,
        clipping_norm=phase.clipping.norm,
        learning_rate=phase.optimizer.learning_rate,
    )
    biases = task.pretrained
    for number in range(rounds):
        reply = site.train(honest, biases, key=f"{number:016}")
        biases = biases + FLOAT32.decode(reply.content, len(biases))
    limits = site.guard.policy.limits(next(iter(site.guard.policy.datasets)), "")
    distance = np.abs(biases - task.pretrained).max()
    assert 0 < distance < limits.bias_distance(honest, 50) / 10
    site.coordinator.run = "run-2"
    last = plans.plan(
        honest, rounds=1, steps_per_round=1, noise_multiplier=20.0, learning_rate=1e-3
    )
    assert site.train(last, biases).content
    # Within 1 of where the run ended, and further than that from where it began.
    assert refusal(site.train(last, biases + np.float32(0.95), key="z" * 16)) == "policy"


def test_a_ledger_that_is_put_back_while_the_guard_serves_is_noticed_before_a_round(
    site: Site, plan: Plan, biases: np.ndarray, tmp_path: Path
) -> None:
    site.train(plan, biases, key="a" * 16)
    live = str(site.guard.ledger.database)
    with closing(sqlite3.connect(live)) as now, closing(sqlite3.connect(tmp_path / "old")) as old:
        now.backup(old)
        spent = site.spent()
        site.train(plan, biases, key="b" * 16)
        assert site.spent() != spent
        old.backup(now)
    assert site.spent() == spent  # the second round is forgotten
    for reply in (site.query(PLAN), site.train(plan, biases, key="c" * 16)):
        assert refusal(reply) == "ledger"
    trained = site.train(plan, biases, key="b" * 16)
    assert (refusal(trained), fields(trained)["untouched"]) == ("ledger", "")
    assert site.spent() == spent
