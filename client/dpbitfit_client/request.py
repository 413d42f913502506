"""One round as the coordinator asks for it, read and checked before anything else."""

import hashlib
from dataclasses import dataclass

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray

from dpbitfit import codec
from dpbitfit.errors import ProtocolError
from dpbitfit.ledger.exchange import Position
from dpbitfit.plan import Plan

MOST_ROUNDS = 10**6


@dataclass(frozen=True)
class Request:
    """A round of a plan from given biases [P], under a key that is used once.

    ``position`` is where the coordinator's ledger stands, with the round reserved.
    """

    plan: Plan
    run: str
    round: int
    key: str
    biases: NDArray[np.float32]
    position: Position

    def digest(self, model_digest: str) -> str:
        """SHA-256 of all that the answer depends on."""
        parts = f"{self.plan.digest} {model_digest} {self.run} {self.round}".encode()
        return hashlib.sha256(parts + self.biases.tobytes()).hexdigest()

    @classmethod
    def read(cls, content: RecordDict, parameters: int) -> "Request":
        """The request of a message.

        Raises ProtocolError where a part is missing or of a wrong kind, InputError
        for a plan with a number out of range.
        """
        names = ("plan", "request", "position", "biases")
        plan, request, position, biases = (content.get(name) for name in names)
        if not isinstance(plan, ConfigRecord) or not isinstance(request, ConfigRecord):
            raise ProtocolError("the request carries no plan")
        if not isinstance(position, ConfigRecord) or not isinstance(biases, ArrayRecord):
            raise ProtocolError("the request carries no biases or no ledger's position")
        number, run, key = (request.get(name) for name in ("round", "run", "key"))
        if type(number) is not int or not 0 < number <= MOST_ROUNDS:
            raise ProtocolError("the request carries no round")
        if not isinstance(run, str) or not 0 < len(run) <= 64:
            raise ProtocolError("the request carries no run")
        if not isinstance(key, str) or not 16 <= len(key) <= 200:
            raise ProtocolError("the request carries no key")
        read = Plan.from_config(plan)
        if request.get("plan_digest") != read.digest:
            raise ProtocolError("the request's plan is not the one that its digest names")
        read.check()
        stands = Position.from_config(position, key)
        return cls(read, run, number, key, codec.decode(biases, parameters), stands)
