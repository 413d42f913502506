"""A coordinator's request, verified and decoded before anything else is done.

An envelope may come from any caller who reaches the socket: size and signature come
first, fields next, and nothing here opens a file.
"""

import json
from dataclasses import dataclass

from dpbitfit.errors import IdentityError
from dpbitfit.ledger.exchange import SignedHead
from dpbitfit.plan import Plan
from dpbitfit.protocol.envelope import Envelope, digest
from dpbitfit.protocol.messages import DESCRIBE, Head, Question, RoundRequest


@dataclass(frozen=True)
class Request:
    """One round of a plan from packed biases, under a key that is used once.

    ``head`` is that of the coordinator's ledger, with the round reserved.
    """

    purpose: str
    plan: Plan
    run: str
    round: int
    key: str
    biases: bytes
    head: SignedHead

    @property
    def coordinator(self) -> str:
        """The coordinator's public key: that of its ledger."""
        return self.head.ledger

    @property
    def digest(self) -> str:
        """SHA-256 of all that the reply depends on, and of who may have it."""
        parts = (self.purpose, self.coordinator, self.plan.digest, self.run, self.round)
        return digest(json.dumps([*parts, digest(self.biases)]).encode())  # as ledgers store it

    @classmethod
    def read(cls, envelope: Envelope, purpose: str) -> "Request":
        """The request in an envelope that was signed for this purpose.

        Raises ProtocolError for a message that is not what it should be, IdentityError
        where the signature is not that of the ledger that it speaks for, InputError
        for a plan with a number out of range.
        """
        message = envelope.read(RoundRequest, purpose)
        head = read_head(message.head, message.key, envelope.sender)
        plan = Plan.decode(message.plan.encode())
        return cls(purpose, plan, message.run, message.round, message.key, envelope.content, head)


def read_question(envelope: Envelope) -> tuple[Question, Plan]:
    """A question that its coordinator has signed, and its plan; raises as ``Request.read``."""
    question = envelope.read(Question, DESCRIBE)
    return question, Plan.decode(question.plan.encode())


def read_head(head: Head, key: str, sender: str) -> SignedHead:
    """The head of the sender's ledger, signed for this key; raises as ``Request.read``."""
    signed = SignedHead.from_config(head.model_dump(), key)
    if signed.ledger != sender:
        raise IdentityError("the head is that of another ledger")
    return signed
