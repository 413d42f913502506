"""Every message between a coordinator and a site, defined once: its fields and their bounds.

A message is sent as canonical JSON: sorted keys, no spaces. Decoding is strict:
fields that are missing, unknown, of another type or out of bounds are refused, and
so is any other spelling of the same values.

    purpose             request         reply
    describe            Question        Description
    train, evaluate     RoundRequest    TrainReply, EvaluateReply
    any of them                         Refusal
"""

import re
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, StringConstraints, ValidationError

from dpbitfit.errors import ProtocolError
from dpbitfit.faults import dotted, faults
from dpbitfit.schema import Part
from dpbitfit.validate import MOST_METRIC, MOST_STEPS, DeclaredSize, Form, Rounds

DESCRIBE, TRAIN, EVALUATE, REPLY = "describe", "train", "evaluate", "reply"


def _printable(low: int, high: int) -> Any:
    return Form(
        f"{low} to {high} printable characters",
        lambda text: low <= len(text) <= high and text.isprintable(),
    )


Name = Annotated[str, _printable(0, 200)]
Digest = Annotated[str, _printable(0, 64)]
Signature = Annotated[str, _printable(0, 128)]
Run = Annotated[str, _printable(1, 64)]
Key = Annotated[str, _printable(16, 200)]
Code = Annotated[
    str,
    Form("1 to 40 of a-z and dashes", lambda code: bool(re.fullmatch("[a-z-]{1,40}", code))),
]
Json = Annotated[str, StringConstraints(max_length=1 << 14)]  # another canonical text
Count = Annotated[int, Field(ge=0, lt=2**63)]
Metrics = Annotated[dict[Name, float], Field(max_length=20)]
MetricValues = Annotated[
    dict[Name, Annotated[float, Field(ge=0, le=MOST_METRIC)]], Field(max_length=20)
]


class Message(Part):
    """What is common to all: immutable, closed, strict, bounded."""

    most_bytes: ClassVar[int] = 1 << 16  # of the encoded message: some of it is stored
    has_content: ClassVar[bool] = False  # whether its envelope carries a vector

    @classmethod
    def decode(cls, statement: bytes) -> Self:
        """The message of its canonical JSON; ProtocolError, naming the field, for anything else."""
        try:
            message = cls.model_validate_json(statement)
        except ValidationError as error:
            fault = next(faults(error, cls))
            place = dotted((cls.__name__, *fault.key))
            # The value may be one that only the sender knows.
            raise ProtocolError(f"{place}: {fault.text(with_value=False)}") from error
        if message.encode() != statement:
            raise ProtocolError(f"{cls.__name__}: the message is not in its canonical form")
        return message


class Head(Message):
    """A ledger's head on an account, signed by that ledger's key.

    Field by field ``dpbitfit.ledger.exchange.SignedHead``, which says what they
    mean, and its signature.
    """

    ledger: Digest
    account: Annotated[str, _printable(0, 800)]
    coordinator: Digest
    sequence: Count
    head: Digest
    spent: Json
    runs: Json
    rebased: Count
    seen_sequence: Count
    seen_head: Digest
    key: Name
    signature: Signature


class Question(Message):
    """A coordinator's request for a site's description, and whether it takes part in a plan.

    ``plan`` is canonical JSON. ``head`` is that of the coordinator's ledger, signed for
    the head that the site has sent: only where the two ledgers do not agree.
    """

    plan: Json
    run: Run
    head: Head | None = None


class RoundRequest(Message):
    """A coordinator's request for a round from packed biases, under a key that is used once.

    ``head`` is that of its ledger, with the round reserved.
    """

    has_content: ClassVar[bool] = True

    plan: Json
    run: Run
    round: Rounds
    key: Key
    head: Head


class Facts(Message):
    """The public constants of a site, for a data set and a model."""

    site: Name
    dataset: Name
    unit: Name
    declared_size: DeclaredSize
    layout_digest: Digest
    model_digest: Digest
    parameters: Count
    version: Name


class EvaluationOffer(Message):
    """The evaluation that a policy allows: another account, of its own records.

    ``metrics`` gives the noise multiplier of each.
    """

    dataset: Name
    unit: Name
    declared_size: DeclaredSize
    delta: float
    epsilon: float
    metrics: Metrics


class Description(Message):
    """What a site is; ``rounds_left`` of the run, -1 before its plan was approved."""

    most_bytes: ClassVar[int] = 1 << 20

    facts: Facts
    labels: Annotated[tuple[str, ...], Field(max_length=100_000)]
    rounds_left: Annotated[int, Field(ge=-1, le=MOST_STEPS)]
    evaluation: EvaluationOffer | None
    head: Head


class TrainReply(Message):
    """A trained round; its content is what the plan's phase releases."""

    has_content: ClassVar[bool] = True

    facts: Facts
    plan_digest: Digest
    round: Rounds
    key: Key
    head: Head


class EvaluateReply(Message):
    """The noised metrics of a round, on records that are never trained on."""

    facts: Facts
    plan_digest: Digest
    round: Rounds
    key: Key
    metrics: MetricValues
    head: Head


class Refusal(Message):
    """Why a request is refused: a fixed code, and no text.

    ``untouched`` is the site's signature that the key touched no data and never
    will, "" where it may have; ``head`` is None where the request was not read.
    """

    code: Code
    key: Name = ""
    untouched: Signature = ""
    head: Head | None = None


RoundReply = TrainReply | EvaluateReply
