"""The guard's envelopes on its socket, and its refusals as errors. Nothing here needs torch."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from dpbitfit.errors import DpbitfitError
from dpbitfit.protocol.envelope import Envelope
from dpbitfit_client.generated import guard_pb2 as pb

if TYPE_CHECKING:
    from dpbitfit.protocol.messages import Refusal


class Refused(DpbitfitError):
    """The guard refuses; ``statement`` is all that leaves, ``code`` its fixed code.

    A reason that quotes no record is part of the error's text, for the site itself.
    """

    def __init__(self, statement: bytes, code: str, reason: str = "") -> None:
        super().__init__(": ".join(filter(None, (code, reason))))
        self.statement = statement
        self.reason = reason
        self.code = code  # type: ignore[misc]

    @property
    def refusal(self) -> "Refusal":
        """The statement as a message."""
        from dpbitfit.protocol.messages import Refusal

        return Refusal.decode(self.statement)


def to_proto(envelope: Envelope) -> pb.Envelope:
    """An envelope as the socket carries it."""
    return pb.Envelope(**asdict(envelope))


def from_proto(message: pb.Envelope) -> Envelope:
    """The envelope that came over the socket."""
    return Envelope(message.statement, message.sender, message.signature, message.content)
