"""What an account's events say and its other rows do not: when it was asked, when it answered.

A trace is added to, event by event, so that what was read once is not read
again. A new one begins with the account's last few events and the ends that its
rounds' rows count; only where those do not say enough are all events read.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

import sqlalchemy as sa

from dpbitfit.accounting.composition import Counts
from dpbitfit.errors import LedgerError
from dpbitfit.ledger import Account, queries, schema
from dpbitfit.ledger.events import GENESIS, Event, counts_from_text

# Every end that a round can have, by its outcome in the ledger; others count as OTHER.
ENDS = (
    *("reply", "refused", "untouched", "no reply", "answer-lost"),
    *("ended early", "its run died", "settled", "crashed"),
)
OTHER = "other"
# Ends without an answer that could be used.
REFUSALS = ("refused", "untouched", "no reply", "answer-lost")
_TAIL = 8  # events
_MOST = 256  # events that are caught up with; a longer way is begun anew


@dataclass(frozen=True)
class OpenRound:
    """A round that was reserved and has no end yet."""

    key: str
    run: str
    round: int
    since: datetime


@dataclass
class Activity:
    """What was seen of an account up to the event ``sequence`` with the hash ``head``.

    ``run`` was approved or asked for last; ``counts`` are the steps of its last
    round, empty before any. ``asked_since`` is when the account was first asked
    without having answered since.
    """

    sequence: int = 0
    head: str = GENESIS
    run: str = ""
    counts: Counts = ()
    last_seen: datetime | None = None
    asked_since: datetime | None = None
    ends: Counter[str] = field(default_factory=Counter)
    open: dict[str, OpenRound] = field(default_factory=dict)

    def add(self, event: Event) -> None:
        """Add the next event; LedgerError, naming it, where it does not follow."""
        try:
            body = json.loads(event.body)
            if event.sequence != self.sequence + 1 or body["previous"] != self.head:
                raise ValueError("it does not follow the event before it")
            if hashlib.sha256(event.body.encode()).hexdigest() != event.hash:
                raise ValueError("its hash is not that of its content")
            self._apply(event.kind, body, _time(body["at"]))
        except (ValueError, KeyError, TypeError, LedgerError, RecursionError) as error:
            raise LedgerError(f"event {event.sequence} cannot be believed") from error
        self.sequence, self.head = event.sequence, event.hash

    def _apply(self, kind: str, body: Mapping[str, Any], at: datetime) -> None:
        if kind == "allot":
            self.run, self.counts = str(body["run"]), ()
        elif kind == "reserve":
            one = OpenRound(str(body["key"]), str(body["run"]), int(body["round"]), at)
            text = json.dumps(body["counts"], separators=(",", ":"))
            self.run, self.counts = one.run, counts_from_text(text)
            self.open[one.key] = one
            self.asked_since = self.asked_since or at
        elif kind in ("commit", "release"):
            end = _end(body["outcome"])
            self.open.pop(str(body["key"]), None)
            self.ends[end] += 1
            if end == "reply":
                self.last_seen = at
            if end != "no reply":
                self.asked_since = None

    @classmethod
    def of_tail(
        cls, tail: Iterable[Event], ends: Mapping[str, int], open_keys: set[str]
    ) -> Self | None:
        """The trace of an account's last events; None where they say too little.

        ``ends`` counts how its rounds ended, by their rows; ``open_keys`` are those
        that did not.
        """
        events = list(tail)
        if not events:
            return None
        trace = cls(events[0].sequence - 1, _previous(events[0]))
        for event in events:
            trace.add(event)
        if trace.sequence > len(events):
            answered = trace.ends.total() > trace.ends["no reply"]
            seen = trace.last_seen or not ends.get("reply")
            if not (answered and seen and trace.run and trace.open.keys() == open_keys):
                return None
        trace.ends = Counter(ends)
        return trace


def catch_up(
    connection: sa.Connection, accounts: Mapping[int, Account], known: Mapping[int, Activity | None]
) -> tuple[dict[int, Activity], dict[int, str]]:
    """The traces of these accounts as they are now, and why those that are missing are.

    ``known`` are older ones, which are used up; None for an account that could not
    be believed, all events of which are read.
    """
    traces: dict[int, Activity] = {}
    broken: dict[int, str] = {}
    near = {of: one for of, one in known.items() if one and _is_near(one, accounts[of])}
    ends, open_keys = _ends(connection, accounts.keys() - near.keys())
    behind = {of: _rounded(accounts[of].sequence - one.sequence) for of, one in near.items()}
    tails = _last_events(connection, {of: behind.get(of, _TAIL) for of in accounts})
    for of, account in accounts.items():
        trace = near.get(of)
        try:
            if trace is not None:
                for event in tails.get(of, ()):
                    if event.sequence > trace.sequence:
                        trace.add(event)
            elif known.get(of, ...) is not None:
                trace = Activity.of_tail(tails.get(of, ()), ends[of], open_keys[of])
        except LedgerError:
            trace = None
        try:
            if trace is None or not _is_at(trace, account):
                trace = _whole(connection, of)
            if not _is_at(trace, account):
                raise LedgerError("its last event is not the one that its row names")
        except LedgerError as error:
            broken[of] = str(error)
        else:
            traces[of] = trace
    return traces, broken


def _whole(connection: sa.Connection, account_id: int) -> Activity:
    trace = Activity()
    for event in queries.events_of(connection, account_id):
        trace.add(event)
    return trace


def _is_at(trace: Activity, account: Account) -> bool:
    return (trace.sequence, trace.head) == (account.sequence, account.head)


def _is_near(trace: Activity, account: Account) -> bool:
    return 0 <= account.sequence - trace.sequence <= _MOST


def _rounded(number: int) -> int:
    """A power of two that is no smaller: a few statements for all accounts."""
    return 1 << max(0, number - 1).bit_length()


def _last_events(connection: sa.Connection, lengths: Mapping[int, int]) -> dict[int, list[Event]]:
    """Each account's last events, so many of them at least."""
    found: dict[int, list[Event]] = {}
    for length in sorted(set(lengths.values())):
        ids = [of for of, wanted in lengths.items() if wanted == length]
        chosen = _newest(length, connection.dialect.name)
        for chunk in queries.chunks(ids):
            for of, *values in connection.execute(chosen.where(schema.account.c.id.in_(chunk))):
                found.setdefault(of, []).append(Event(*values))
    return found


def _newest(length: int, dialect: str) -> sa.Select[Any]:
    """The last ``length`` events of all accounts, each account's in order."""
    event, account = schema.event.c, schema.account.c
    columns = (event.account_id, event.sequence, event.kind, event.body, event.hash)
    mine = sa.and_(event.account_id == account.id, event.sequence > account.sequence - length)
    if dialect == "sqlite":
        joined = sa.select(*columns).join_from(schema.account, schema.event, mine)
        return joined.order_by(event.account_id, event.sequence)
    # Left to itself, PostgreSQL reads the whole table; a limit in a lateral makes it look up each.
    each = sa.select(*columns).where(mine).order_by(event.sequence).limit(length).lateral()
    return sa.select(each).join_from(schema.account, each, sa.true())


def _ends(
    connection: sa.Connection, ids: Collection[int]
) -> tuple[dict[int, Counter[str]], dict[int, set[str]]]:
    """How the accounts' rounds ended, counted; and the keys of those that did not."""
    ends: dict[int, Counter[str]] = {of: Counter() for of in ids}
    open_keys: dict[int, set[str]] = {of: set() for of in ids}
    table = schema.reservation.c
    for chunk in queries.chunks(ids):
        here = table.account_id.in_(chunk)
        counted = sa.select(table.account_id, table.outcome, sa.func.count())
        counted = counted.where(here, table.state.in_(("committed", "released")))
        for of, outcome, count in connection.execute(
            counted.group_by(table.account_id, table.outcome)
        ):
            ends[of][_end(outcome)] += count
        left = sa.select(table.account_id, table.key).where(here, table.state == "reserved")
        for of, key in connection.execute(left):
            open_keys[of].add(key)
    return ends, open_keys


def _end(outcome: str) -> str:
    return outcome if outcome in ENDS else OTHER


def _previous(event: Event) -> str:
    try:
        return str(json.loads(event.body)["previous"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise LedgerError(f"event {event.sequence} cannot be believed") from error


def _time(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError("a time without its zone")
    return at
