"""The guard's messages, and what of them Flower carries. Nothing here needs torch.

A reply becomes statements (text and whole numbers), the site's ledger position
and at most one packed vector: what a message of the guard cannot hold, a relay
has nothing to fill with.
"""

import json
from dataclasses import asdict, fields
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from dpbitfit.errors import DpbitfitError, ProtocolError
from dpbitfit.plan import Plan
from dpbitfit.protocol import codec, payloads
from dpbitfit.protocol.signing import Signer
from dpbitfit_client.generated import guard_pb2 as pb

Reply = pb.DescribeReply | pb.TrainReply | pb.EvaluateReply


class Refused(DpbitfitError):
    """The guard refuses; ``refusal`` is all that leaves, ``code`` its fixed word.

    A reason that quotes no record is part of the error's text, for the site itself.
    """

    def __init__(self, refusal: pb.Refusal, reason: str = "") -> None:
        super().__init__(": ".join(filter(None, (refusal.code, reason))))
        self.refusal = refusal

    @property
    def code(self) -> str:  # type: ignore[override]
        """The fixed word."""
        return self.refusal.code


def question(content: RecordDict) -> pb.DescribeRequest:
    """What Flower brought, as a question to the guard; ProtocolError where it is none."""
    asked = _config(content, "asked")
    try:
        return pb.DescribeRequest(
            plan=_plan(content),
            run=asked["run"],
            coordinator=asked["ledger"],
            signature=asked["signature"],
            position=pb.SignedHead(**_config(content, "position"))
            if "position" in content
            else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError("the question lacks a part") from error


def request(content: RecordDict) -> pb.RoundRequest:
    """What Flower brought, as a request to the guard; ProtocolError where it is none."""
    asked, position = _config(content, "request"), _config(content, "position")
    biases = content.get("biases")
    if not isinstance(biases, ArrayRecord):
        raise ProtocolError("the request carries no biases")
    try:
        return pb.RoundRequest(
            plan=_plan(content),
            run=asked["run"],
            round=asked["round"],
            key=asked["key"],
            biases=codec.raw(biases),
            position=pb.SignedHead(**position),
            signature=asked["signature"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError("the request lacks a part") from error


def content(reply: Reply) -> RecordDict:
    """A reply as Flower carries it."""
    said = {**stated(reply), "refused": "", "signature": reply.signature}
    found = RecordDict(
        {"statements": ConfigRecord({**said}), "position": ConfigRecord(values(reply.position))}
    )
    if isinstance(reply, pb.TrainReply):
        found["update"] = codec.encode(codec.vector(reply.update, reply.statements.parameters))
    if isinstance(reply, pb.EvaluateReply):
        found["metrics"] = MetricRecord(dict(reply.metrics))
    return found


def refusal(refused: pb.Refusal) -> RecordDict:
    """A refusal as Flower carries it."""
    said = {"refused": refused.code, "untouched": refused.untouched}
    found = RecordDict({"statements": ConfigRecord({**said})})
    if refused.HasField("position"):
        found["position"] = ConfigRecord(values(refused.position))
    return found


def stated(reply: Reply) -> dict[str, str | int]:
    """All that a reply states beside its content."""
    said = values(reply.statements)
    if isinstance(reply, pb.DescribeReply):
        offer = reply.evaluation
        metrics = {one.name: one.noise_multiplier for one in offer.metrics}
        evaluation = {**values(offer), "metrics": metrics} if metrics else {}
        return {
            **said,
            "labels": json.dumps(list(reply.labels)),
            "rounds_left": reply.rounds_left,
            "evaluation": json.dumps(evaluation, sort_keys=True),
        }
    return {**said, "plan_digest": reply.plan_digest, "round": reply.round, "key": reply.key}


def packed(reply: Reply) -> bytes:
    """A reply's content as its signature covers it."""
    if isinstance(reply, pb.TrainReply):
        return reply.update
    if isinstance(reply, pb.EvaluateReply):
        return payloads.metrics(reply.metrics)
    return b""


def sign(signer: Signer, reply: Reply) -> None:
    """Put the site's signature under all that a reply says."""
    reply.signature = signer.sign("reply", payloads.reply(stated(reply), packed(reply)))


def plan(agreed: Plan) -> pb.Plan:
    """A plan as a message."""
    return pb.Plan(**asdict(agreed))


def values(part: Any) -> dict[str, Any]:
    """The plain fields of a message, by name."""
    return {
        field.name: getattr(part, field.name)
        for field in part.DESCRIPTOR.fields
        if field.message_type is None
    }


def _plan(content: RecordDict) -> pb.Plan:
    said = _config(content, "plan")
    return pb.Plan(**{field.name: said[field.name] for field in fields(Plan)})


def _config(content: RecordDict, name: str) -> dict[str, Any]:
    part = content.get(name)
    if not isinstance(part, ConfigRecord):
        raise ProtocolError(f"the message carries no {name}")
    return dict(part)
