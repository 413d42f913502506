"""What every surface shows: the page, the table, gRPC and Prometheus.

Public and plan-level numbers only: counts, parameters and times that the
coordinator knows anyway. Epsilon is always at the account's delta.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from dpbitfit.accounting.composition import Bound
from dpbitfit.ledger import AccountName
from dpbitfit.ledger.bounds import is_quick
from dpbitfit.ledger.events import Event
from dpbitfit.ledger.export import STATEMENTS
from dpbitfit.ledger.runs import RunStatus
from dpbitfit.ledger.status import EpsilonBound
from dpbitfit_monitor.activity import OpenRound

# Parts of a budget at which an operator should look; figures are shown in percent, so that
# half a percent less than all of it reads as 100 %.
HALF, NEAR, CLOSE, SPENT = 0.5, 0.8, 0.95, 0.995
THRESHOLDS = {HALF: "50 %", NEAR: "80 %", CLOSE: "95 %", SPENT: "100 %"}


class State(StrEnum):
    """What condition an account is in, from well to worst."""

    OK = "ok"
    SILENT = "silent"
    NEAR = "near"
    SPENT = "spent"
    ORPHANED = "orphaned"
    DRIFTED = "drifted"
    UNREADABLE = "unreadable"


MEANINGS = {
    State.OK: "within its budget, and it answers",
    State.SILENT: "was asked, and has not answered since",
    State.NEAR: "80 % of its budget or more is spent",
    State.SPENT: "its budget is spent",
    State.ORPHANED: "a round was reserved long ago and has no end",
    State.DRIFTED: "its ledger and the coordinator's disagree: it is frozen",
    State.UNREADABLE: "its rows are corrupt, so no figure is shown",
}


@dataclass(frozen=True)
class AccountView:
    """One account: (site, data set, unit) with its budget and what became of it.

    ``guaranteed`` is a bound that holds whatever is done; ``accrued``, informative,
    is what was spent of it, ``approved`` what every approved step takes of the budget,
    of which ``left`` is approved for nothing.
    ``accrued_is_exact`` is false where only a quick figure is known yet: then
    ``accrued`` is that, or all that is approved, and may be far too high.
    ``reached`` is the highest of ``THRESHOLDS`` that was accrued, 0 for none or
    where that is not exact.
    ``rounds_left`` of the run ``run`` is None before its first round.
    ``asked_since`` is when it was first asked without having answered since.
    ``ends`` counts its rounds by how they ended, ``refusals`` those without an
    answer that could be used. ``silent`` and ``orphaned`` say that an answer, or the
    end of an open round, is overdue; ``drift`` how two ledgers disagree, or "".
    """

    name: AccountName
    reached: float
    sequence: int
    head: str
    delta: float
    budget: float
    guaranteed: EpsilonBound
    approved: Bound
    accrued: EpsilonBound
    accrued_is_exact: bool
    left: float
    run: str
    rounds_left: int | None
    last_seen: datetime | None
    asked_since: datetime | None
    ends: Mapping[str, int]
    refusals: Mapping[str, int]
    open_rounds: int
    open_since: datetime | None
    silent: bool
    orphaned: bool
    drift: str

    @property
    def state(self) -> State:
        """The most severe that applies."""
        applies = {
            State.DRIFTED: bool(self.drift),
            State.ORPHANED: self.orphaned,
            State.SPENT: self.reached == SPENT,
            State.NEAR: self.reached >= NEAR,
            State.SILENT: self.silent,
        }
        return next((state for state, does in applies.items() if does), State.OK)

    @property
    def used_ratio(self) -> float:
        """Accrued epsilon over the budget."""
        return self.accrued.bound.epsilon / self.budget

    @property
    def guaranteed_ratio(self) -> float:
        """Guaranteed epsilon over the budget."""
        return self.guaranteed.bound.epsilon / self.budget

    @property
    def approved_ratio(self) -> float:
        """What every approved step takes, over the budget."""
        return self.approved.epsilon / self.budget

    @property
    def sentence(self) -> str:
        """The account in words: unit, adjacency, delta, accountant, and what is not covered."""
        name, accrued, bound = self.name, self.accrued, self.guaranteed.bound
        return (
            f"All that was released from {name.site}'s data set {name.dataset} tells an observer "
            f"little about any one unit ({name.unit}): the loss for adding or removing one unit, "
            f"that is all of its records, is at most epsilon {bound.epsilon:.3f} at delta "
            f"{self.delta:g}, by {bound.accountant} ({bound.version}): {self.guaranteed.basis}. "
            f"The budget is {self.budget:g}. Accrued so far is {accrued.bound.epsilon:.3f}, by "
            f"{accrued.bound.accountant}: {accrued.basis}. "
            f"Not covered: {'; '.join(STATEMENTS['not_covered'])}."
        )


@dataclass(frozen=True)
class UnreadableAccount:
    """An account without figures: ``problem`` says why."""

    name: AccountName
    problem: str
    state: State = State.UNREADABLE


@dataclass(frozen=True)
class Overview:
    """Every account at one moment, by name; ``ledger`` is the ledger's public key."""

    at: datetime
    ledger: str
    accounts: tuple[AccountView, ...]
    unreadable: tuple[UnreadableAccount, ...]


@dataclass(frozen=True)
class Point:
    """Epsilon accrued (informative) at ``at``, after ``rounds`` committed rounds of the account."""

    rounds: int
    at: datetime
    bound: Bound


@dataclass(frozen=True)
class Witness:
    """The last signed head of another ledger on an account.

    ``ledger`` is its public key, ``sequence`` and ``head`` its own last event then;
    ``drift`` how it disagrees with this ledger, or "".
    """

    ledger: str
    sequence: int
    head: str
    drift: str


@dataclass(frozen=True)
class AccountDetail:
    """All about one account, whose whole chain of events was verified for it.

    ``series`` rises over its committed rounds, thinned out where they are many;
    ``curve`` is the guaranteed epsilon over delta. ``decisions`` are the events that
    an operator answers for: opened, another budget, counts taken over.
    """

    view: AccountView
    series: tuple[Point, ...]
    curve: tuple[Bound, ...]
    runs: tuple[RunStatus, ...]
    open_rounds: tuple[OpenRound, ...]
    decisions: tuple[Event, ...]
    witnesses: tuple[Witness, ...]


def threshold(ratio: float) -> float:
    """The highest of ``THRESHOLDS`` that a part of a budget reaches, 0 for none."""
    return max((part for part in THRESHOLDS if ratio >= part), default=0.0)


def is_exact(bound: Bound) -> bool:
    """Whether a figure is the smallest known, not a quick one."""
    return not is_quick(bound)
