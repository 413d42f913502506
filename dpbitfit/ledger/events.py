"""Events as canonical text, chained by hashes, and what a chain adds up to.

One chain for each account. An event's hash covers its text, and its text names
the hash before it, so that no event can be changed, dropped or put in between
without every later hash being wrong.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple

from dpbitfit.accounting.composition import Counts, Mechanism, merged
from dpbitfit.errors import AccountingError, LedgerError

GENESIS = "0" * 64
KINDS = ("open", "budget", "allot", "reserve", "commit", "release", "void", "rebase")


class _UnreadableError(LedgerError):
    """A text that is not one of the ledger's."""


class AccountName(NamedTuple):
    """Whose privacy: a site, a data set of its own, and the unit that is protected."""

    site: str
    dataset: str
    unit: str

    def __str__(self) -> str:
        return "/".join(self)


@dataclass(frozen=True)
class Event:
    """One event; ``body`` is its canonical text."""

    sequence: int
    kind: str
    body: str
    hash: str


def canonical(value: float) -> str:
    """A number as plain decimal text: the shortest that reads back as the same float."""
    return format(Decimal(repr(float(value))).normalize(), "f")


def counts_to_text(counts: Mapping[Mechanism, int] | Counts) -> str:
    """Counts as canonical JSON: [[noise multiplier, sampling rate, steps], ...]."""
    pairs = counts if isinstance(counts, tuple) else merged(counts.items())
    return _json([[canonical(m.noise_multiplier), canonical(m.sampling_rate), n] for m, n in pairs])


@lru_cache(maxsize=4096)
def counts_from_text(text: str) -> Counts:
    """The counts of a canonical text; LedgerError for any other text."""
    try:
        triples = [(float(sigma), float(rate), int(n)) for sigma, rate, n in json.loads(text)]
        counts = merged((Mechanism(sigma, rate), n) for sigma, rate, n in triples)
    except (ValueError, TypeError, OverflowError, RecursionError, AccountingError) as error:
        raise _UnreadableError("a count of steps cannot be read") from error
    if counts_to_text(counts) != text:
        raise _UnreadableError("a count of steps is not in its canonical form")
    return counts


def make(
    name: AccountName, sequence: int, previous: str, kind: str, at: str, **facts: Any
) -> Event:
    """The next event of an account, after the one with hash ``previous``."""
    body = _json(
        {
            "account": list(name),
            "sequence": sequence,
            "previous": previous,
            "kind": kind,
            "at": at,
            **facts,
        }
    )
    return Event(sequence, kind, body, hashlib.sha256(body.encode()).hexdigest())


@dataclass
class Held:
    """What one run may do to an account, and has done, in steps of one mechanism."""

    allotted: int = 0
    reserved: int = 0
    committed: int = 0
    voided: int = 0
    adaptive: bool = False
    plan: str = ""
    coordinator: str = ""

    @property
    def spent(self) -> int:
        """Steps that were made, or may have been made."""
        return self.reserved + self.committed

    @property
    def left(self) -> int:
        """Steps that may still be reserved."""
        return self.allotted - self.spent - self.voided


class Round(NamedTuple):
    """A round of one account, by what its key was used for; ``outcome`` says why it ended."""

    state: str
    run: str
    round: int
    counts: Counts
    outcome: str = ""


@dataclass
class Tally:
    """What an account's events add up to."""

    name: AccountName
    delta: str = ""
    budget: str = ""
    filter_order: int = 0
    sequence: int = 0
    head: str = GENESIS
    held: dict[tuple[str, Mechanism], Held] = field(default_factory=dict)
    rounds: dict[str, Round] = field(default_factory=dict)  # by key
    owners: dict[str, str] = field(default_factory=dict)  # the coordinator of each run
    causes: list[str] = field(default_factory=list)  # of each event: the coordinator, or ""

    def add(self, event: Event) -> None:
        """Add the next event; LedgerError, naming it, where it does not follow."""
        try:
            body = json.loads(event.body)
            self._check(event, body)
            self._apply(event.kind, body)
            self.causes.append(self._cause(event.kind, body))
        except (KeyError, ValueError, TypeError, RecursionError, _UnreadableError) as error:
            raise self._broken(event, "its content cannot be read") from error
        self.sequence, self.head = event.sequence, event.hash

    def _check(self, event: Event, body: Mapping[str, Any]) -> None:
        if event.sequence != self.sequence + 1:
            raise self._broken(event, f"event {self.sequence + 1} should stand here")
        if hashlib.sha256(event.body.encode()).hexdigest() != event.hash:
            raise self._broken(event, "its hash is not that of its content")
        if body["previous"] != self.head:
            raise self._broken(event, "it does not follow the event before it")
        written = (tuple(body["account"]), body["sequence"], body["kind"])
        if written != (tuple(self.name), event.sequence, event.kind):
            raise self._broken(event, "its columns are not what its content says")

    def _cause(self, kind: str, body: Mapping[str, Any]) -> str:
        """Whose request an event follows from; "" for what the ledger's own people did."""
        if kind in ("allot", "rebase"):
            return str(self.owners.setdefault(body["run"], body["coordinator"]))
        if kind == "reserve":
            return self.owners[body["run"]]
        if kind in ("commit", "release"):
            return self.owners[self.rounds[body["key"]].run]
        return str(body.get("coordinator", ""))

    def _apply(self, kind: str, body: Mapping[str, Any]) -> None:
        if kind in ("open", "budget"):
            self.delta, self.budget = body["delta"], body["budget"]
        elif kind == "allot":
            self.filter_order = body["order"]
            for mechanism, steps in counts_from_text(_json(body["counts"])):
                held = self.held.setdefault((body["run"], mechanism), Held())
                held.allotted += steps
                held.adaptive = body["adaptive"]
                held.plan, held.coordinator = body["plan"], body["coordinator"]
        elif kind == "reserve":
            counts = counts_from_text(_json(body["counts"]))
            self._move(body["run"], counts, "reserved", 1)
            self._put(body["key"], Round("reserved", body["run"], int(body["round"]), counts))
        elif kind in ("commit", "release"):
            before = self.rounds[body["key"]]
            self._move(before.run, before.counts, "reserved", -1)
            if kind == "commit":
                self._move(before.run, before.counts, "committed", 1)
            state = "committed" if kind == "commit" else "released"
            after = before._replace(state=state, outcome=body["outcome"])
            self._put(body["key"], after, before="reserved")
        elif kind == "void" and "key" in body:
            self._put(body["key"], Round("void", body["run"], int(body["round"]), ()))
        elif kind == "void":
            self._move(body["run"], counts_from_text(_json(body["counts"])), "voided", 1)
        elif kind == "rebase":
            self.filter_order = body["order"]
            counts = counts_from_text(_json(body["counts"]))
            # The first version raised both columns by the same.
            more = dict(counts_from_text(_json(body.get("allotted", body["counts"]))))
            for mechanism, steps in counts:
                held = self.held.setdefault((body["run"], mechanism), Held(adaptive=True))
                held.coordinator = body["coordinator"]
                held.allotted += more.get(mechanism, 0)
                held.committed += steps
                if held.left < 0:
                    raise ValueError("a count is out of range")
        else:
            raise ValueError(f"an unknown kind {kind!r}")

    def _move(self, run: str, counts: Counts, column: str, sign: int) -> None:
        for mechanism, steps in counts:
            held = self.held[run, mechanism]
            setattr(held, column, getattr(held, column) + sign * steps)
            if min(held.reserved, held.committed, held.voided, held.left) < 0:
                raise ValueError("a count is out of range")

    def _put(self, key: str, after: Round, before: str = "") -> None:
        known = self.rounds.get(key)
        if (known.state if known else "") != before:
            raise ValueError("a key is settled twice")
        self.rounds[key] = after

    def _broken(self, event: Event, what: str) -> LedgerError:
        return LedgerError(f"account {self.name}, event {event.sequence}: {what}")


def replay(name: AccountName, events: Iterable[Event]) -> Tally:
    """The tally that an account's events add up to; LedgerError for the first bad one."""
    tally = Tally(name)
    for event in events:
        tally.add(event)
    return tally


def total(
    held: Mapping[Any, Held] | Iterable[tuple[Any, Held]], *columns: str
) -> Counter[Mechanism]:
    """Steps of each mechanism, the given columns added up over all runs."""
    counts: Counter[Mechanism] = Counter()
    pairs = held.items() if isinstance(held, Mapping) else held
    for (_, mechanism), one in pairs:
        counts[mechanism] += sum(getattr(one, column) for column in columns)
    return counts


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
