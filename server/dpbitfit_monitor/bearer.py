"""Bearer tokens and other secrets, from files."""

import hmac
from pathlib import Path

from dpbitfit.errors import InputError

SHORTEST_SECRET = 16  # characters


def read_secret(path: Path) -> bytes:
    """A secret of at least 16 characters, which is all that a file holds."""
    try:
        secret = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: the secret cannot be read") from error
    if len(secret) < SHORTEST_SECRET:
        raise InputError(f"{path}: a secret has at least {SHORTEST_SECRET} characters")
    return secret.encode()


def carries(authorization: str, token: bytes) -> bool:
    """Whether an Authorization header holds the token; compared in constant time."""
    return hmac.compare_digest(authorization.encode("utf-8", "replace"), b"Bearer " + token)
