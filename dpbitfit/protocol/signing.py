"""Ed25519 signatures, over bytes and over small statements. A public key names the signer."""

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

    def sign_bytes(self, data: bytes) -> str:
        """The signature of these bytes, in hexadecimal."""
        return self._key.sign(data).hex()

    def sign(self, purpose: str, statement: Statement) -> str:
        """The signature of a statement for one purpose, in hexadecimal."""
        return self.sign_bytes(_canonical(purpose, statement))

    def seal(self, purpose: str, statement: Statement) -> str:
        """A digest of a statement that only the holder of this key can make, or recognise."""
        # Ed25519 is deterministic (RFC 8032) and a signature cannot be guessed: a keyed hash.
        return hashlib.sha256(self._key.sign(_canonical(purpose, statement))).hexdigest()


def verify_bytes(public: str, data: bytes, signature: str) -> None:
    """Raise IdentityError unless ``public`` signed these bytes."""
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
        key.verify(bytes.fromhex(signature), data)
    except (ValueError, InvalidSignature) as error:
        raise IdentityError("a message's signature is not that of its sender") from error


def verify(public: str, purpose: str, statement: Statement, signature: str) -> None:
    """Raise IdentityError unless ``public`` signed this statement for this purpose."""
    verify_bytes(public, _canonical(purpose, statement), signature)


def untouched(key: str) -> Statement:
    """A site's promise, signed as ``untouched``: a key touched no data and never will."""
    return {"key": key}


def _canonical(purpose: str, statement: Statement) -> bytes:
    # The purpose is signed too, so that no statement can be passed off as one of another kind.
    return json.dumps([purpose, dict(statement)], sort_keys=True, separators=(",", ":")).encode()
