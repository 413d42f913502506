"""What a coordinator asks, read and checked before anything else is done.

A message may come from anybody who reached the socket: sizes and signature come
first, numbers next, and nothing here opens a file.
"""

import json
from dataclasses import dataclass, fields

from dpbitfit.errors import ProtocolError
from dpbitfit.ledger.exchange import SignedHead
from dpbitfit.plan import Plan
from dpbitfit.protocol import payloads
from dpbitfit.protocol.signing import verify
from dpbitfit_client.generated import guard_pb2 as pb

MOST_ROUNDS = 10**6
MOST_BYTES = 1 << 16  # of a message beside its biases: some of it is kept


@dataclass(frozen=True)
class Request:
    """One round of a plan from packed biases, under a key that is used once.

    ``position`` is where the coordinator's ledger stands, with the round reserved.
    """

    purpose: str
    plan: Plan
    run: str
    round: int
    key: str
    biases: bytes
    position: SignedHead

    @property
    def coordinator(self) -> str:
        """The public key of who asks: that of its ledger."""
        return self.position.ledger

    @property
    def digest(self) -> str:
        """SHA-256 of all that the answer depends on, and of who may have it."""
        parts = (self.purpose, self.coordinator, self.plan.digest, self.run, self.round)
        return payloads.digest(json.dumps([*parts, payloads.digest(self.biases)]).encode())

    @classmethod
    def read(cls, asked: pb.RoundRequest, purpose: str) -> "Request":
        """The request in a message that was signed for this purpose.

        Raises ProtocolError where a part is missing or of a wrong kind, IdentityError
        where the signature is not that of the ledger that it speaks for, InputError
        for a plan with a number out of range.
        """
        if asked.ByteSize() - len(asked.biases) > MOST_BYTES:
            raise ProtocolError("the request is too large")
        if not (asked.HasField("plan") and asked.HasField("position")):
            raise ProtocolError("the request carries no plan or no ledger's position")
        if not 0 < asked.round <= MOST_ROUNDS:
            raise ProtocolError("the request carries no round")
        _check_run(asked.run)
        if not 16 <= len(asked.key) <= 200 or not asked.key.isprintable():
            raise ProtocolError("the request carries no key")
        plan = read_plan(asked.plan)
        position = read_position(asked.position, asked.key)
        said = payloads.request(plan, asked.run, asked.round, asked.key, asked.biases)
        verify(position.ledger, purpose, said, asked.signature)
        plan.check()
        return cls(purpose, plan, asked.run, asked.round, asked.key, asked.biases, position)


def read_question(asked: pb.DescribeRequest) -> Plan:
    """The plan of a question that its coordinator has signed; raises as ``Request.read``."""
    if asked.ByteSize() > MOST_BYTES:
        raise ProtocolError("the question is too large")
    _check_run(asked.run)
    plan = read_plan(asked.plan)
    verify(asked.coordinator, "describe", payloads.question(plan, asked.run), asked.signature)
    plan.check()
    return plan


def read_plan(message: pb.Plan) -> Plan:
    """The plan in a message, whatever its numbers are."""
    return Plan(**{field.name: getattr(message, field.name) for field in fields(Plan)})


def read_position(message: pb.SignedHead, key: str) -> SignedHead:
    """Where a ledger stands, as it has signed for this key; ProtocolError where it has not."""
    return SignedHead.from_config(_values(message), key)


def _check_run(run: str) -> None:
    if not 0 < len(run) <= 64 or not run.isprintable():
        raise ProtocolError("the request carries no run")


def _values(position: pb.SignedHead) -> dict[str, str | int]:
    return {field.name: getattr(position, field.name) for field in position.DESCRIPTOR.fields}
