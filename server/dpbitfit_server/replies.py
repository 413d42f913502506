"""A site's reply, verified and decoded, or its refusal."""

from collections.abc import Mapping
from typing import TypeVar

from flwr.app import Message
from flwr.common.constant import ErrorCode

from dpbitfit.errors import (
    GuardUnavailable,
    IdentityError,
    LedgerBusy,
    LedgerDrift,
    LedgerError,
    PolicyError,
    ProtocolError,
    RoundFailed,
)
from dpbitfit.ledger.exchange import SignedHead
from dpbitfit.protocol.envelope import Envelope
from dpbitfit.protocol.messages import REPLY, Description, Refusal, RoundReply

Reply = TypeVar("Reply", bound=Description | RoundReply)

# What Flower reports in place of a reply. Its own words may quote what a process at a site did.
_LOSSES: Mapping[int, str] = {
    ErrorCode.LOAD_CLIENT_APP_EXCEPTION: "its client app cannot be loaded",
    ErrorCode.CLIENT_APP_RAISED_EXCEPTION: "its client app failed",
    ErrorCode.MESSAGE_UNAVAILABLE: "its reply cannot be read",
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE: "its reply was cut off",
    ErrorCode.NODE_UNAVAILABLE: "its SuperNode is gone",
    ErrorCode.INVALID_FAB: "its SuperNode refuses the app",
    ErrorCode.CLIENT_APP_CRASHED: "its client process died",
}


# Of a refusal for what may be mended in the next round.
TRANSIENT = {LedgerBusy.code, LedgerError.code, "internal"}


def read(envelope: Envelope, kind: type[Reply], key: str) -> tuple[Reply | Refusal, SignedHead]:
    """A reply of this kind, or a refusal, and the head that its ledger signed for a round.

    Raises GuardUnavailable where the site's guard did not answer, ProtocolError for
    a reply that is not what it should be, IdentityError for one that the ledger
    which it speaks for did not sign.
    """
    message: Reply | Refusal
    message = envelope.read(kind, REPLY) if envelope.signature else _refusal(envelope)
    if message.head is None:
        assert isinstance(message, Refusal)
        raise ProtocolError(explain(message))
    head = SignedHead.from_config(message.head.model_dump(), key)
    if envelope.signature and head.ledger != envelope.sender:
        raise IdentityError("the head is that of another ledger")
    return message, head


def loss(message: Message) -> str:
    """Why there is no reply, where Flower reports that in its place."""
    return _LOSSES.get(message.error.code, "its SuperNode reports an error")


def explain(refusal: Refusal) -> str:
    """A site's refusal in words; why it refuses is for its own log alone."""
    if refusal.code == PolicyError.code:
        return "its policy does not allow this plan: its guard's log names what"
    if refusal.code == LedgerDrift.code:
        return "its ledger and this one do not agree: its guard's log says how"
    if refusal.code == RoundFailed.code:
        return "its round ended with an error, and stays spent: its guard's log names which"
    return f"it refused with the code {refusal.code!r}"


def _refusal(envelope: Envelope) -> Refusal:
    """An unsigned statement: only a refusal is one, which costs its site and gives nothing."""
    if len(envelope.statement) > Refusal.most_bytes or envelope.content:
        raise ProtocolError("the message is too large")
    refusal = Refusal.decode(envelope.statement)
    if refusal.code == GuardUnavailable.code:
        raise GuardUnavailable("the site's guard does not answer")
    return refusal
