"""The site's audit log: one line a request, and one for each change of a budget.

It is for the site alone, and holds no count and no loss of records: who asked, for which round,
how it ended, what it cost, and how many bytes left.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from dpbitfit.accounting.composition import epsilon
from dpbitfit.accounting.mechanism import Counts
from dpbitfit.errors import AccountingError
from dpbitfit.protocol.envelope import Envelope
from dpbitfit_client.message import Refused

log = logging.getLogger("dpbitfit.guard.audit")

ANSWERED, REPEATED = "answered", "answered before: the same bytes"
MOST_CHARACTERS = 500  # of one value: a coordinator writes some of them


@dataclass
class RequestLine:
    """What is written about one request, filled in as it becomes known.

    ``coordinator`` is its name in the policy; ``key`` its public key, which ``verified`` says
    whether it has signed; ``charged`` is the epsilon, at ``delta``, of what the request alone
    was charged, 0 where nothing was: rounds together cost less than the sum.
    """

    request: str
    key: str
    verified: bool = False
    coordinator: str = ""
    run: str = ""
    round: int | None = None
    account: str = ""
    outcome: str = ANSWERED
    reason: str = ""
    charged: float | None = 0.0
    delta: float | None = None
    bytes_out: int = 0

    def signed_by(self, key: str, name: str | None, run: str, number: int | None = None) -> None:
        """Who has asked, as its signature shows; ``name`` is None for a stranger."""
        self.verified, self.key, self.coordinator = True, key, name or ""
        self.run, self.round = run, number

    def charge(self, account: str, counts: Counts, delta: float) -> None:
        """The request is charged; seconds for counts that are new, where anything is written."""
        self.account, self.delta = account, delta
        if log.isEnabledFor(logging.INFO):
            try:
                self.charged = epsilon(dict(counts), delta).epsilon
            except AccountingError:
                self.charged = None  # more than any accountant bounds

    def answer(self, reply: Envelope) -> Envelope:
        """The reply, whose bytes are counted."""
        self.bytes_out = len(reply.statement) + len(reply.content)
        return reply


@contextmanager
def request(purpose: str, envelope: Envelope) -> Iterator[RequestLine]:
    """Write the line of a request when it ends, however it does."""
    line = RequestLine(purpose, envelope.sender)
    try:
        yield line
    except Refused as refused:
        line.outcome, line.reason = refused.code, refused.reason
        line.bytes_out = len(refused.statement)
        raise
    finally:
        facts = asdict(line).items()
        write("request", **{k: v for k, v in facts if v not in ("", None) or k == "charged"})


def budget(account: str, before: float, after: float, delta: float, reason: str) -> None:
    """Write that an account has another budget; the reason says who gave it."""
    write("budget", account=account, before=before, budget=after, delta=delta, reason=reason)


def write(event: str, **facts: Any) -> None:
    """One line, whose values can neither begin another nor steer a terminal."""
    facts = {"event": event, **{name: _short(value) for name, value in facts.items()}}
    text = " ".join(f"{name}={json.dumps(value)}" for name, value in facts.items())
    log.info("%s", text, extra={"facts": facts})


class JsonLines(logging.Formatter):
    """A JSON object a line: the facts of the audit log, the text of every other message."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        facts = getattr(record, "facts", {"event": "message", "text": record.getMessage()})
        return json.dumps({"at": at, "level": record.levelname.lower(), **facts})


def _short(value: Any) -> Any:
    return value[:MOST_CHARACTERS] if isinstance(value, str) else value
