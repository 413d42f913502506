"""How a template is asked to fork: a request with its outputs one way, "began" and "ended" back.

The standard library alone, so that a program that only asks starts at once.
"""

import json
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

BYTES = 1 << 20  # of a request: the environment is in it


def channel() -> socket.socket:
    """A socket whose messages stay whole, for requests of that size."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BYTES)
    return made


def ask(
    address: str,
    code: str,
    words: Sequence[str],
    outputs: tuple[int, int] = (1, 2),
    cwd: Path | str | None = None,
    env: Mapping[str, str] | None = None,
    umask: int = -1,
) -> tuple[socket.socket, int]:
    """Have a fork run CODE with its words: what will say how it ended, and its pid."""
    request = {
        "code": code,
        "words": words,
        "cwd": str(cwd or Path.cwd()),
        "env": dict(os.environ if env is None else env),
        "umask": umask,
    }
    status = channel()
    status.connect(address)
    socket.send_fds(status, [json.dumps(request).encode()], outputs)
    return status, receive(status, "began")


def receive(status: socket.socket, kind: str) -> int:
    word, _, number = status.recv(100).decode().partition(" ")
    assert word == kind, "what the template or its fork says stands above"
    return int(number)
