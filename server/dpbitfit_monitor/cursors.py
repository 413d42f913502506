"""Page tokens: where the next page of a list begins. Opaque, and valid for that list only."""

import base64
import hashlib
import json

from dpbitfit.errors import InputError

_DIGEST = 12  # bytes: against mistakes, not attacks; the caller may read the whole list
_LONGEST = 4096  # characters


def encode(scope: str, position: str) -> str:
    """The token for the page after ``position`` in the list that ``scope`` names."""
    text = position.encode()
    return base64.urlsafe_b64encode(_digest(scope, text) + text).decode()


def decode(scope: str, token: str) -> str:
    """The position in a token, "" for no token; InputError where it belongs to another list."""
    if not token:
        return ""
    try:
        raw = base64.b64decode(token[:_LONGEST], altchars=b"-_", validate=True)
        digest, text = raw[:_DIGEST], raw[_DIGEST:]
        position = text.decode()
    except ValueError:
        raise InputError("a page token cannot be read") from None
    if digest != _digest(scope, text) or encode(scope, position) != token:
        raise InputError("a page token belongs to another list")
    return position


def _digest(scope: str, text: bytes) -> bytes:
    return hashlib.blake2b(json.dumps([scope, text.hex()]).encode(), digest_size=_DIGEST).digest()
