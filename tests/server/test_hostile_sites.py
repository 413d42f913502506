"""What a node sends, claims or holds back costs the others neither their run nor their time."""

import json
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dpbitfit_server import admission, pulling, settlement, waiting
from flwr.app import Array, Message
from flwr.supercore.inflatable.inflatable_object import (
    add_header_to_object_body,
    get_all_nested_objects,
)

from dpbitfit.errors import LedgerError, ProtocolError
from dpbitfit.ledger import exchange
from dpbitfit.protocol.envelope import Envelope
from dpbitfit.protocol.messages import EvaluateReply, Refusal
from dpbitfit.protocol.signing import untouched
from dpbitfit.schema import canonical

from ..support import plans
from ..support.grids import PARAMETERS, PLAN, Clock, Fields, Site
from .test_strategy import final, sites, spent, strategy
from .test_stream import Registered, instead

ROUNDS = 3


class Interrupted(Registered):
    """Nodes of which one's replies cannot be pulled as others can."""

    def __init__(self, nodes: dict[int, Any], pull: Callable[[], None]) -> None:
        super().__init__(nodes)
        self._pull, self._of = pull, {101}

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = list(super().pull_messages(message_ids))
        if any(reply.metadata.src_node_id in self._of for reply in replies):
            self._pull()
        return replies


@pytest.mark.parametrize("error", [json.JSONDecodeError("", "", 0), RecursionError, MemoryError])
@pytest.mark.parametrize("when", ["query", "train"])
def test_a_reply_that_flower_cannot_read_is_its_sites_matter(
    when: str, error: Any, tmp_path: Path
) -> None:
    nodes = sites("hospital-1", "hospital-2")
    asked: list[str] = []

    def fail() -> None:
        if asked[-1] == when:
            raise error

    def answer(message: Message) -> Any:
        asked.append(message.metadata.message_type)
        return nodes[101](message)

    private = strategy(tmp_path)
    biases = final(private, Interrupted({100: nodes[100], 101: answer}, fail))
    assert biases == pytest.approx(np.full(PARAMETERS, float(ROUNDS)))
    assert [line["replies"] for line in private.history] == [0, 1, 1, 1]
    assert private.history[-1]["missing"].get("hospital-2", "") in (
        "its reply cannot be read",
        "",  # it has never been a site
    )


def test_what_a_node_announces_and_does_not_send_holds_up_no_other(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "PULL_SECONDS", 0.05)
    came = threading.Event()
    private = strategy(tmp_path)
    try:
        final(private, Interrupted(sites("hospital-1", "hospital-2"), came.wait))
    finally:
        came.set()
    assert [line["replies"] for line in private.history] == [0, 1, 1, 1]
    assert clock.monotonic() < admission.DESCRIBE_SECONDS + ROUNDS * admission.SILENT_SECONDS + 60


def test_an_array_is_not_joined_to_more_than_its_sender_has_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pulling, "MOST_ARRAY_BYTES", 1 << 27)
    pulling.limit_arrays()
    honest = Array(np.zeros(6_000_000, np.float32))  # two chunks that are alike
    parts = get_all_nested_objects(honest)
    children = {name: part for name, part in parts.items() if part is not honest}
    again = Array.inflate(honest.deflate(), dict(children))
    assert again.data == honest.data
    chunk = max(children, key=lambda name: len(children[name].deflate()))
    body = {"dtype": "uint8", "shape": [1], "stype": "dpbitfit", "arraychunk_ids": [0] * 200}
    hostile = add_header_to_object_body(json.dumps(body).encode(), honest)
    with pytest.raises(ValueError, match="too large"):
        Array.inflate(hostile, {chunk: children[chunk]})


def test_a_site_that_never_answers_is_left_out_before_it_has_spent_its_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settlement, "MOST_SILENT", 2)
    nodes = sites("hospital-1", "hospital-2")
    instead(nodes[101], *[None] * ROUNDS)
    private = strategy(tmp_path)
    final(private, Registered(nodes))
    assert spent(private) == {"hospital-1": 6, "hospital-2": 4}
    assert "2 times in a row" in private.registry.refused["hospital-2"]


def test_a_node_that_describes_no_site_is_waited_for_at_length_once(
    clock: Clock, tmp_path: Path
) -> None:
    nodes: dict[int, Any] = {**sites("hospital-1"), 101: lambda _: None}
    final(strategy(tmp_path), Registered(nodes))
    assert clock.monotonic() < admission.DESCRIBE_SECONDS + ROUNDS * admission.SILENT_SECONDS + 60


def test_a_node_speaks_for_the_site_that_it_is_registered_as(tmp_path: Path) -> None:
    honest, other = Site("hospital-1"), Site("hospital-1")
    private = strategy(tmp_path)
    final(private, Registered({101: other, 100: honest}))  # 101 is registered as hospital-2
    assert (len(other.requests), len(honest.requests)) == (0, ROUNDS)
    (why,) = private.registry.turned_away.values()
    assert "answers for 'hospital-1', and its node is registered as 'hospital-2'" in why


@pytest.mark.parametrize("code", ["busy", "ledger", "internal"])
def test_a_site_that_cannot_answer_now_is_in_again_later(code: str, tmp_path: Path) -> None:
    """It has touched nothing, and says so; what is wrong there may be mended by then."""
    nodes = sites("hospital-1", "hospital-2")
    nodes[101].release_rounds(code, 1)
    private = strategy(tmp_path)
    final(private, Registered(nodes))
    assert [line["replies"] for line in private.history] == [0, 1, 2, 2]
    assert spent(private) == {"hospital-1": 6, "hospital-2": 4}


def test_what_a_site_has_answered_it_cannot_give_back(tmp_path: Path) -> None:
    """A round is asked for again after a crash, under its key; a lie does not end the run."""
    nodes = sites("hospital-1")
    private = strategy(tmp_path)
    final(private, Registered(nodes))
    site = private.registry.sites["hospital-1"]
    signature = nodes[100].ledger.signer.sign("untouched", untouched(site.key))
    refusal = Refusal(code="budget", key=site.key, untouched=signature)
    assert not private.registry.release(site, refusal)
    assert spent(private) == {"hospital-1": 6}


@pytest.mark.parametrize("noise", [0.0, 1e-3, 1e300])
def test_an_offer_that_no_accountant_can_count_costs_its_site_the_measurement_alone(
    noise: float, tmp_path: Path
) -> None:
    nodes = sites("hospital-1", "hospital-2")
    offer = {"dataset": "d", "unit": "u", "declared_size": 9, "delta": 1e-5, "epsilon": 8.0}
    site = nodes[101]

    def describe(envelope: Envelope) -> Envelope:
        fields = {
            "labels": [],
            "rounds_left": -1,
            "evaluation": {**offer, "metrics": {"loss": noise}},
        }
        return site.signed(fields, site.head(envelope.sender))

    site.describe = describe  # type: ignore[method-assign]
    private = strategy(tmp_path, plan=plans.plan(PLAN, metrics="loss", evaluations=1))
    final(private, Registered(nodes))
    assert spent(private) == {"hospital-1": 6, "hospital-2": 6}


@pytest.mark.parametrize("field", ["spent", "runs"])
def test_counts_that_cannot_be_read_are_the_sites_matter(field: str, tmp_path: Path) -> None:
    nodes = sites("hospital-1", "hospital-2")
    forge(nodes[101], **{field: "[["})
    private = strategy(tmp_path)
    final(private, Registered(nodes))
    assert spent(private) == {"hospital-1": 6}
    (why,) = private.registry.turned_away.values()
    assert "cannot be read" in why


def test_a_ledger_of_the_coordinators_own_that_fails_is_no_sites_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends; it goes on without a round or a site lost."""
    nodes = sites("hospital-1", "hospital-2")
    private = strategy(tmp_path)
    check, calls = exchange.check, iter(range(100))

    def fail(*values: Any, **options: Any) -> None:
        if next(calls) == 5:  # with one reply of a round in hand
            raise LedgerError("the database does not answer")
        check(*values, **options)

    monkeypatch.setattr("dpbitfit_server.sites.exchange.check", fail)
    with pytest.raises(LedgerError, match="does not answer"):
        final(private, Registered(nodes))
    monkeypatch.undo()
    monkeypatch.setattr(waiting, "time", Clock())
    private.registry.ledger.database.close()
    again = strategy(tmp_path)
    assert again.resume()
    assert final(again, Registered(nodes)) == pytest.approx(np.full(PARAMETERS, float(ROUNDS)))
    assert spent(again) == {"hospital-1": 6, "hospital-2": 6}
    assert not again.registry.refused


@pytest.mark.parametrize("value", [-1.0, 1e300])
def test_a_metric_that_cannot_be_one_is_no_reply(value: float) -> None:
    head = {"sequence": 0, "rebased": 0, "seen_sequence": 0, "runs": "{}", "spent": "[]"}
    texts = ("ledger", "account", "coordinator", "head", "seen_head", "key", "signature")
    fields: dict[str, Any] = {
        **{"site": "a", "dataset": "b", "unit": "c", "declared_size": 9, "version": "1"},
        **{"layout_digest": "d", "model_digest": "e", "parameters": 3},
    }
    reply = {
        **{"facts": fields, "plan_digest": "f", "round": 1, "key": "k" * 16},
        **{"head": {**head, **dict.fromkeys(texts, "x")}, "metrics": {"loss": value}},
    }
    with pytest.raises(ProtocolError, match=r"metrics\.loss"):
        EvaluateReply.decode(canonical(reply))
    assert EvaluateReply.decode(canonical({**reply, "metrics": {"loss": 2.0}}))


def forge(site: Site, **values: Any) -> None:
    """Have a site sign heads with other values."""
    usual = site.head

    def head(coordinator: str, key: str = "") -> Fields:
        own = usual(coordinator, key)
        own.pop("signature")
        stated = {**own, **values}
        return {**stated, "signature": site.ledger.signer.sign(exchange.PURPOSE, stated)}

    site.head = head  # type: ignore[method-assign]
