"""Signed statements: Ed25519 over canonical JSON. Who signs is named by the public key."""

import hashlib
import json
from collections.abc import Mapping
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from dpbitfit.errors import IdentityError

Statement = Mapping[str, str | int]


class Signer:
    """A private key; ``public`` is its public half in hexadecimal, 64 characters."""

    def __init__(self, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = self._key.public_key().public_bytes_raw().hex()

    @classmethod
    def from_hex(cls, seed: str) -> Self:
        """The signer of a seed of 64 hexadecimal characters."""
        return cls(bytes.fromhex(seed))

    def sign(self, purpose: str, statement: Statement) -> str:
        """The signature, in hexadecimal, of a statement made for one purpose."""
        return self._key.sign(_text(purpose, statement)).hex()

    def seal(self, purpose: str, statement: Statement) -> str:
        """A digest of a statement that only the holder of this key can make, or recognise."""
        # Ed25519 is deterministic (RFC 8032) and a signature cannot be guessed: a keyed hash.
        return hashlib.sha256(self._key.sign(_text(purpose, statement))).hexdigest()


def verify(public: str, purpose: str, statement: Statement, signature: str) -> None:
    """Raise IdentityError unless ``public`` signed this statement for this purpose."""
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
        key.verify(bytes.fromhex(signature), _text(purpose, statement))
    except (ValueError, InvalidSignature) as error:
        raise IdentityError("a statement's signature is not that of its sender") from error


def _text(purpose: str, statement: Statement) -> bytes:
    # The purpose is signed too, so that no statement can be passed off as one of another kind.
    return json.dumps([purpose, dict(statement)], sort_keys=True, separators=(",", ":")).encode()
