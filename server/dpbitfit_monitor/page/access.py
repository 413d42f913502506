"""Who may see the page: holders of tokens, their sessions, and a limit on attempts.

A token is 32 random bytes, so that its SHA-256 is all that has to be stored, and
guessing is hopeless; the limit on attempts spares the log and the processor.
"""

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from ipaddress import ip_address, ip_network
from logging import getLogger
from pathlib import Path

from dpbitfit.errors import InputError
from dpbitfit_monitor.files import stamp

SESSION_SECONDS = 8 * 3600
MOST_FAILURES, FAILURE_SECONDS = 5, 300.0
_MOST_ADDRESSES = 4096
_LONGEST_NAME = 100  # characters

Clock = Callable[[], float]

_log = getLogger(__name__)


def make_token(name: str) -> tuple[str, str]:
    """A new token, and the line of the token file that lets its holder in."""
    token = secrets.token_urlsafe(32)
    line = f"{name} {digest_of(token)}"
    _parse(line)
    return token, line


def digest_of(token: str) -> str:
    """The SHA-256 of a token, which is all that is stored of it."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


class Tokens:
    """A file with a line ``NAME DIGEST`` for each token; read again when it has changed.

    While it cannot be read, no token is accepted; at the start that is an InputError.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = stamp(path)
        self._holders = _read(path)

    def holders(self) -> Mapping[str, str]:
        """Names by digest."""
        current = stamp(self._path)
        if current != self._stamp:
            self._stamp = current
            try:
                self._holders = _read(self._path)
            except InputError as error:
                self._holders = {}
                _log.warning("no token is accepted: %s", error)
        return self._holders

    def known(self, token: str) -> str | None:
        """The digest of a token that the file names, None for another; in constant time."""
        given = digest_of(token)
        match = None
        for digest in self.holders():
            if hmac.compare_digest(digest, given):
                match = digest
        return match


class Sessions:
    """Signed cookie values: which token a viewer signed in with, and when that expires.

    The key is this process's: a restart ends every session. So does the token's
    line, when it is taken out of the file.
    """

    def __init__(self, tokens: Tokens, clock: Clock = time.time) -> None:
        self._tokens = tokens
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._ended: dict[str, int] = {}  # nonces, and when each session would have expired

    def begin(self, digest: str) -> str:
        """A new session of the token's holder."""
        text = f"{int(self._clock()) + SESSION_SECONDS}.{secrets.token_hex(16)}.{digest}"
        return f"{text}.{self._sign(text)}"

    def holder(self, session: str) -> str | None:
        """The holder of a session; None where it is invalid, has ended, or its token is gone."""
        text, _, signature = session.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._sign(text).encode()):
            return None
        until, nonce, digest = text.split(".")
        if nonce in self._ended or int(until) <= self._clock():
            return None
        return self._tokens.holders().get(digest)

    def end(self, session: str) -> None:
        """Sign out: a copy of the cookie is no longer valid either."""
        if self.holder(session) is not None:
            until, nonce, *_ = session.split(".")
            now = self._clock()
            self._ended = {key: end for key, end in self._ended.items() if end > now}
            self._ended[nonce] = int(until)

    def _sign(self, text: str) -> str:
        return hmac.new(self._key, text.encode("utf-8", "replace"), hashlib.sha256).hexdigest()


class Attempts:
    """Recent wrong tokens by address; an IPv6 network of 64 bits counts as one address."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    def is_allowed(self, address: str) -> bool:
        """Whether this address may try again."""
        times = self._failures.get(_network(address), deque())
        while times and times[0] <= self._clock() - FAILURE_SECONDS:
            times.popleft()
        return len(times) < MOST_FAILURES

    def failed(self, address: str) -> None:
        """Remember a wrong token."""
        network = _network(address)
        self._failures.setdefault(network, deque(maxlen=MOST_FAILURES)).append(self._clock())
        self._failures.move_to_end(network)
        if len(self._failures) > _MOST_ADDRESSES:
            self._failures.popitem(last=False)


def _network(address: str) -> str:
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    return str(ip_network((parsed, 64), strict=False)) if parsed.version == 6 else address


def _read(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: the token file cannot be read") from error
    try:
        return dict(_parse(line) for line in lines if line.strip() and line[0] != "#")
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _parse(line: str) -> tuple[str, str]:
    name, _, digest = line.strip().rpartition(" ")
    is_hex = len(digest) == 64 and not digest.strip("0123456789abcdef")
    if not (is_hex and name.isprintable() and 0 < len(name.strip()) <= _LONGEST_NAME):
        raise InputError("a line is what `dpbitfit monitor token NAME` prints")
    return digest, name.strip()
