"""What can happen to an account: one frozen class for each kind of event.

Events are never changed or removed, and what a kind means stays as it is: a field that
comes later is optional. An event's hash covers its text, and its text names the hash
before it, so that no event can be changed, dropped or put in between without every later
hash being wrong.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, get_args

from dpbitfit.accounting.mechanism import Counts
from dpbitfit.ledger.account import AccountName

GENESIS = "0" * 64


@dataclass(frozen=True)
class AccountOpened:
    """An account was made, with a budget: epsilon at ``delta``."""

    kind: ClassVar[str] = "open"
    delta: float
    budget: float


@dataclass(frozen=True)
class BudgetSet:
    """An operator gave an account another budget."""

    kind: ClassVar[str] = "budget"
    delta: float
    budget: float
    reason: str


@dataclass(frozen=True)
class PlanApproved:
    """A run may take the steps of ``counts``; ``order`` is the Rényi filter's from then on.

    ``plan`` is the plan's digest. ``adaptive``: approved after results may have been seen.
    """

    kind: ClassVar[str] = "allot"
    run: str
    plan: str
    coordinator: str
    counts: Counts
    adaptive: bool
    order: int


@dataclass(frozen=True)
class RoundReserved:
    """A round's steps were reserved under a key, before any record was read."""

    kind: ClassVar[str] = "reserve"
    run: str
    round: int
    key: str
    counts: Counts


@dataclass(frozen=True)
class RoundCommitted:
    """A reserved round counts as spent; ``outcome`` says how it ended."""

    kind: ClassVar[str] = "commit"
    key: str
    outcome: str


@dataclass(frozen=True)
class RoundReleased:
    """A reserved round read no record: ``proof`` is its site's signature on that."""

    kind: ClassVar[str] = "release"
    key: str
    outcome: str
    proof: str


@dataclass(frozen=True)
class KeyVoided:
    """A key will never be trained; the first version did not record for which coordinator."""

    kind: ClassVar[str] = "void"
    run: str
    round: int
    key: str
    coordinator: str | None = None


@dataclass(frozen=True)
class StepsVoided:
    """Approved steps that were not reserved are given up; a ``reason`` where an operator did it."""

    kind: ClassVar[str] = "void"
    run: str
    counts: Counts
    reason: str | None = None


@dataclass(frozen=True)
class CountsRaised:
    """Steps that the other side, or a copy of the heads, has recorded count as spent here too.

    ``allotted`` is by how many more than the run had left; None, in the first version,
    for all of them.
    """

    kind: ClassVar[str] = "rebase"
    run: str
    coordinator: str
    counts: Counts
    reason: str
    order: int
    allotted: Counts | None = None


Content = (
    AccountOpened
    | BudgetSet
    | PlanApproved
    | RoundReserved
    | RoundCommitted
    | RoundReleased
    | KeyVoided
    | StepsVoided
    | CountsRaised
)
CONTENTS: tuple[type[Content], ...] = get_args(Content)


@dataclass(frozen=True)
class Event:
    """An event as it is stored; ``body`` is its canonical text."""

    sequence: int
    kind: str
    body: str
    hash: str


@dataclass(frozen=True)
class Entry:
    """An event that was read: whose, its place in the account's chain, when, and what happened."""

    account: AccountName
    sequence: int
    previous: str
    at: datetime
    content: Content
