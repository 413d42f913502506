"""A message has one spelling, and only what its sender signed is read."""

import json
import traceback
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpbitfit.errors import IdentityError, ProtocolError
from dpbitfit.ledger.exchange import SignedHead
from dpbitfit.protocol.envelope import Envelope
from dpbitfit.protocol.messages import (
    Description,
    EvaluateReply,
    EvaluationOffer,
    Facts,
    Head,
    Message,
    Question,
    Refusal,
    RoundRequest,
    TrainReply,
)
from dpbitfit.protocol.signing import Signer
from dpbitfit.schema import canonical

SIGNER, OTHER = Signer(bytes(range(32))), Signer(bytes(32))
HEAD = Head(
    ledger="a" * 64,
    account="hospital-1/letters/record",
    coordinator="b" * 64,
    sequence=3,
    head="c" * 64,
    spent="[]",
    runs="{}",
    rebased=0,
    seen_sequence=0,
    seen_head="",
    key="k" * 16,
    signature="d" * 128,
)
FACTS = Facts(
    site="hospital-1",
    dataset="letters",
    unit="record",
    declared_size=60,
    layout_digest="0" * 64,
    model_digest="1" * 64,
    parameters=50,
    version="0.1.0",
)
OFFER = EvaluationOffer(
    dataset="letters:evaluation",
    unit="record",
    declared_size=60,
    delta=1e-5,
    epsilon=1.0,
    metrics={"accuracy": 20.0},
)
ROUND: dict[str, Any] = {"round": 1, "key": "k" * 16, "head": HEAD}
MESSAGES: list[Message] = [
    Question(plan="{}", run="run-1"),
    Question(plan="{}", run="run-1", head=HEAD),
    RoundRequest(plan="{}", run="run-1", **ROUND),
    Description(facts=FACTS, labels=("a", "é"), rounds_left=-1, evaluation=OFFER, head=HEAD),
    TrainReply(facts=FACTS, plan_digest="2" * 64, **ROUND),
    EvaluateReply(facts=FACTS, plan_digest="2" * 64, metrics={"accuracy": 0.5}, **ROUND),
    Refusal(code="budget"),
    Refusal(code="budget", key="k" * 16, untouched="e" * 128, head=HEAD),
]
each = pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)


def test_a_head_has_the_fields_of_the_ledgers() -> None:
    assert set(Head.model_fields) == {field.name for field in fields(SignedHead)} | {"signature"}


@each
def test_a_message_survives_and_only_as_its_own_kind(message: Message) -> None:
    statement = message.encode()
    assert type(message).decode(statement) == message
    for kind in {type(other) for other in MESSAGES} - {type(message)}:
        with pytest.raises(ProtocolError):
            kind.decode(statement)


def spellings(values: dict[str, Any]) -> Iterator[bytes]:
    yield json.dumps(values, sort_keys=True).encode()
    yield json.dumps(dict(reversed(values.items())), separators=(",", ":")).encode()
    yield canonical(values) + b" "
    yield canonical(values)[:-1] + b',"%s":null}' % max(values).encode()  # the last one twice
    yield canonical(values).replace(b":1,", b":1.0,").replace(b":60,", b":60.0,") + b"\n"
    yield b"\xef\xbb\xbf" + canonical(values)
    yield canonical([values])
    yield b""
    yield b"[" * 100_000


@each
def test_no_other_spelling_is_read(message: Message) -> None:
    for other in spellings(json.loads(message.encode())):
        with pytest.raises(ProtocolError):
            type(message).decode(other)


@each
def test_a_field_that_is_missing_unknown_or_of_another_type_is_refused_by_name(
    message: Message,
) -> None:
    values = json.loads(message.encode())
    for name, value in values.items():
        for wrong in ([[1]], 0.5, True, "x" * 20_000, -2, {"x": "y"}):
            if wrong != value:
                with pytest.raises(ProtocolError, match=name):
                    type(message).decode(canonical({**values, name: wrong}))
        with pytest.raises(ProtocolError):
            type(message).decode(canonical({k: v for k, v in values.items() if k != name}))
    with pytest.raises(ProtocolError, match="records"):
        type(message).decode(canonical({**values, "records": 60}))


BOUNDS: list[tuple[type[Message], dict[str, Any]]] = [
    (RoundRequest, {"key": "short"}),
    (RoundRequest, {"key": "k" * 201}),
    (RoundRequest, {"key": "\x1b[2J" + "k" * 16}),
    (RoundRequest, {"run": ""}),
    (RoundRequest, {"run": "r" * 65}),
    (RoundRequest, {"round": 0}),
    (RoundRequest, {"round": 10**6 + 1}),
    (RoundRequest, {"plan": "x" * 20_000}),
    (RoundRequest, {"head": None}),
    (TrainReply, {"plan_digest": "x" * 65}),
    (TrainReply, {"facts": {**FACTS.model_dump(), "records": 60}}),
    (TrainReply, {"facts": {**FACTS.model_dump(), "declared_size": 0}}),
    (TrainReply, {"facts": {**FACTS.model_dump(), "declared_size": "many"}}),
    (TrainReply, {"facts": {**FACTS.model_dump(), "version": "x" * 201}}),
    (TrainReply, {"head": {**HEAD.model_dump(), "sequence": -1}}),
    (TrainReply, {"head": {**HEAD.model_dump(), "runs": "x" * 20_000}}),
    (EvaluateReply, {"metrics": {"accuracy": float("nan")}}),
    (EvaluateReply, {"metrics": {"accuracy": float("inf")}}),
    (EvaluateReply, {"metrics": {"accuracy": 1}}),
    (EvaluateReply, {"metrics": {f"metric-{number}": 0.5 for number in range(21)}}),
    (EvaluateReply, {"metrics": {"x" * 201: 0.5}}),
    (Refusal, {"code": "row 7: my secret diagnosis"}),
    (Refusal, {"code": ""}),
    (Refusal, {"untouched": "0" * 129}),
]


@pytest.mark.parametrize(("kind", "change"), BOUNDS, ids=lambda value: repr(value)[:60])
def test_what_is_out_of_bounds_is_refused(kind: type[Message], change: dict[str, Any]) -> None:
    (values, *_) = [json.loads(m.encode()) for m in MESSAGES if type(m) is kind]
    with pytest.raises(ProtocolError, match=f"{next(iter(change))}|canonical"):
        kind.decode(canonical({**values, **change}))


def test_no_value_of_another_party_is_in_an_error() -> None:
    """A log may be read by others than the sender: the field's place is enough."""
    secret = "my secret diagnosis"
    values = json.loads(canonical(MESSAGES[-1].model_dump()))
    for change in ({"code": secret}, {"key": [secret]}, {"head": {"ledger": secret}}):
        with pytest.raises(ProtocolError, match=f"Refusal.{next(iter(change))}") as caught:
            Refusal.decode(canonical({**values, **change}))
        assert secret not in "".join(traceback.format_exception(caught.value))


def sealed(content: bytes = b"\0" * 8) -> Envelope:
    return Envelope.sign(SIGNER, "train", MESSAGES[2].encode(), content)


def test_what_was_signed_is_read() -> None:
    assert sealed().read(RoundRequest, "train") == MESSAGES[2]


@given(st.data())
def test_a_changed_byte_is_noticed_before_it_is_parsed(data: st.DataObject) -> None:
    envelope = sealed()
    name = data.draw(st.sampled_from(["statement", "content"]))
    damaged = bytearray(getattr(envelope, str(name)))
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    change: dict[str, Any] = {name: bytes(damaged)}
    with pytest.raises(IdentityError):
        replace(envelope, **change).read(RoundRequest, "train")


@pytest.mark.parametrize(
    "change",
    [
        {"sender": OTHER.public},
        {"sender": ""},
        {"sender": "é" * 64},
        {"signature": ""},
        {"signature": OTHER.sign_bytes(b"")},
        {"content": b""},
        {"statement": b""},
    ],
    ids=str,
)
def test_no_other_sender_signature_or_content_passes(change: dict[str, Any]) -> None:
    with pytest.raises(IdentityError):
        replace(sealed(), **change).read(RoundRequest, "train")


@pytest.mark.parametrize("purpose", ["evaluate", "describe", "reply", "", "train "])
def test_no_other_purpose_passes(purpose: str) -> None:
    with pytest.raises(IdentityError):
        sealed().read(RoundRequest, purpose)


def test_a_signed_message_is_no_signed_statement_nor_the_other_way_round() -> None:
    """The promise and the head carry signatures of their own, by the same key."""
    signature = SIGNER.sign("train", json.loads(MESSAGES[2].encode()))
    with pytest.raises(IdentityError):
        replace(sealed(), signature=signature).read(RoundRequest, "train")


def test_a_vector_too_many_or_too_few_is_refused() -> None:
    with pytest.raises(ProtocolError, match="vector"):
        sealed(b"").read(RoundRequest, "train")
    question = Envelope.sign(SIGNER, "describe", MESSAGES[0].encode(), b"\0" * 8)
    with pytest.raises(ProtocolError, match="vector"):
        question.read(Question, "describe")


def test_size_comes_before_all_else() -> None:
    huge = replace(sealed(), statement=b"{" * (1 << 17), signature="")
    with pytest.raises(ProtocolError, match="too large"):
        huge.read(RoundRequest, "train")
