"""What an account's events add up to: the one fold over a verified chain."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, assert_never

from dpbitfit.accounting.mechanism import Counts, Mechanism
from dpbitfit.errors import LedgerError
from dpbitfit.ledger.account import AccountName
from dpbitfit.ledger.encoding import read_next
from dpbitfit.ledger.events import (
    GENESIS,
    AccountOpened,
    BudgetSet,
    Content,
    CountsRaised,
    Entry,
    Event,
    KeyVoided,
    PlanApproved,
    RoundCommitted,
    RoundReleased,
    RoundReserved,
    StepsVoided,
)


@dataclass
class Allotment:
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


Allotments = Mapping[tuple[str, Mechanism], Allotment]  # by run and mechanism


class Round(NamedTuple):
    """A round of one account, by what its key was used for; ``outcome`` says why it ended."""

    state: str
    run: str
    round: int
    counts: Counts
    outcome: str = ""


@dataclass
class AccountState:
    """What an account's events add up to; ``budget`` is epsilon at ``delta``, 0 before any event.

    ``rounds`` are by key, ``owners`` the coordinator of each run, ``causes`` of each event
    the coordinator whose request it follows from, or "" for the ledger's own operator.
    """

    name: AccountName
    delta: float = 0.0
    budget: float = 0.0
    filter_order: int = 0
    sequence: int = 0
    head: str = GENESIS
    allotments: dict[tuple[str, Mechanism], Allotment] = field(default_factory=dict)
    rounds: dict[str, Round] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    causes: list[str] = field(default_factory=list)

    def add(self, event: Event) -> Entry:
        """Add the next event; LedgerError, naming it, where it does not follow."""
        try:
            entry = read_next(event, self.sequence, self.head)
        except LedgerError as error:
            raise LedgerError(f"account {self.name}, {error}") from error
        if entry.account != self.name:
            raise self._broken(event, "its columns are not what its content says")
        try:
            self._apply(entry.content)
            self.causes.append(self._cause(entry.content))
        except (KeyError, ValueError) as error:
            reason = f"unknown {error}" if isinstance(error, KeyError) else error
            raise self._broken(event, f"its content cannot be read ({reason})") from error
        self.sequence, self.head = event.sequence, event.hash
        return entry

    def _apply(self, content: Content) -> None:
        match content:
            case AccountOpened() | BudgetSet():
                self.delta, self.budget = content.delta, content.budget
            case PlanApproved():
                self.filter_order = content.order
                for mechanism, steps in content.counts:
                    allotment = self.allotments.setdefault((content.run, mechanism), Allotment())
                    allotment.allotted += steps
                    allotment.adaptive = content.adaptive
                    allotment.plan, allotment.coordinator = content.plan, content.coordinator
            case RoundReserved():
                self._move(content.run, content.counts, "reserved", 1)
                reserved = Round("reserved", content.run, content.round, content.counts)
                self._put(content.key, reserved)
            case RoundCommitted() | RoundReleased():
                self._settle(content)
            case KeyVoided():
                self._put(content.key, Round("void", content.run, content.round, ()))
            case StepsVoided():
                self._move(content.run, content.counts, "voided", 1)
            case CountsRaised():
                self._raise(content)
            case _:
                assert_never(content)

    def _settle(self, content: RoundCommitted | RoundReleased) -> None:
        before = self.rounds[content.key]
        state = "released"
        self._move(before.run, before.counts, "reserved", -1)
        if isinstance(content, RoundCommitted):
            state = "committed"
            self._move(before.run, before.counts, "committed", 1)
        after = before._replace(state=state, outcome=content.outcome)
        self._put(content.key, after, before="reserved")

    def _raise(self, content: CountsRaised) -> None:
        self.filter_order = content.order
        # The first version raised both columns by the same.
        more = dict(content.counts if content.allotted is None else content.allotted)
        for mechanism, steps in content.counts:
            new = Allotment(adaptive=True)
            allotment = self.allotments.setdefault((content.run, mechanism), new)
            allotment.coordinator = content.coordinator
            allotment.allotted += more.get(mechanism, 0)
            allotment.committed += steps
            if allotment.left < 0:
                raise ValueError("a count is out of range")

    def _cause(self, content: Content) -> str:
        """Whose request an event follows from; "" for what the ledger's own operator did."""
        match content:
            case PlanApproved() | CountsRaised():
                return self.owners.setdefault(content.run, content.coordinator)
            case RoundReserved():
                return self.owners[content.run]
            case RoundCommitted() | RoundReleased():
                return self.owners[self.rounds[content.key].run]
            case KeyVoided():
                return content.coordinator or ""
            case _:
                return ""

    def _move(
        self,
        run: str,
        counts: Counts,
        column: Literal["reserved", "committed", "voided"],
        sign: Literal[1, -1],
    ) -> None:
        for mechanism, steps in counts:
            allotment = self.allotments[run, mechanism]
            setattr(allotment, column, getattr(allotment, column) + sign * steps)
            counters = (allotment.reserved, allotment.committed, allotment.voided, allotment.left)
            if min(counters) < 0:
                raise ValueError("a count is out of range")

    def _put(self, key: str, after: Round, before: str = "") -> None:
        known = self.rounds.get(key)
        if (known.state if known else "") != before:
            raise ValueError("a key is settled twice")
        self.rounds[key] = after

    def _broken(self, event: Event, problem: str) -> LedgerError:
        return LedgerError(f"account {self.name}, event {event.sequence}: {problem}")


def replay(name: AccountName, events: Iterable[Event]) -> AccountState:
    """What an account's events add up to; LedgerError for the first that is wrong."""
    state = AccountState(name)
    for event in events:
        state.add(event)
    return state


def total(allotments: Allotments, *columns: str) -> Counter[Mechanism]:
    """Steps of each mechanism, the given columns added up over all runs."""
    counts: Counter[Mechanism] = Counter()
    for (_, mechanism), allotment in allotments.items():
        counts[mechanism] += sum(getattr(allotment, column) for column in columns)
    return counts
