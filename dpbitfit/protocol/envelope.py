"""A message as it travels: the very bytes that were signed, and at most one packed vector.

A relay can neither change an envelope nor make one. Its signature is verified before
any of its bytes are parsed.
"""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeVar

from dpbitfit.errors import ProtocolError
from dpbitfit.protocol.signing import Signer, verify_bytes

if TYPE_CHECKING:  # a relay carries envelopes, and needs no schema
    from dpbitfit.protocol.messages import Message

Kind = TypeVar("Kind", bound="Message")


@dataclass(frozen=True)
class Envelope:
    """One message.

    ``statement`` is its canonical JSON; ``sender`` the public key of ``signature``,
    which covers purpose, statement and content; ``content`` a packed vector, or empty.
    A refusal is not signed: what of it counts carries signatures of its own.
    """

    statement: bytes
    sender: str = ""
    signature: str = ""
    content: bytes = b""

    @classmethod
    def sign(cls, signer: Signer, purpose: str, statement: bytes, content: bytes = b"") -> Self:
        """The envelope of a statement, signed for one purpose."""
        signature = signer.sign_bytes(_signed(purpose, statement, content))
        return cls(statement, signer.public, signature, content)

    def read(self, kind: type[Kind], purpose: str) -> Kind:
        """The message that its sender signed for this purpose.

        Raises ProtocolError for one that is too large or not of this kind,
        IdentityError where the sender did not sign it.
        """
        if len(self.statement) + len(self.sender) + len(self.signature) > kind.most_bytes:
            raise ProtocolError("the message is too large")
        signed = _signed(purpose, self.statement, self.content)
        verify_bytes(self.sender, signed, self.signature)
        message = kind.decode(self.statement)
        if bool(self.content) != kind.has_content:
            raise ProtocolError("the message has a vector too many, or lacks one")
        return message


def digest(content: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def _signed(purpose: str, statement: bytes, content: bytes) -> bytes:
    # The purpose is signed too, so that no message can be passed off as one of another kind;
    # what signs a single statement begins otherwise (see ``signing``).
    return f"dpbitfit {purpose} {digest(content)}\n".encode() + statement
