"""What an account's events show and its other rows do not: when it was asked and answered.

An activity is added to, event by event, so that what was read once is not read
again. A new one begins with the account's last few events and the ends that its
rounds' rows count; only where those do not say enough are all events read.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Self

from dpbitfit.accounting.mechanism import Counts
from dpbitfit.errors import LedgerError
from dpbitfit.ledger.account import Account
from dpbitfit.ledger.encoding import read, read_next
from dpbitfit.ledger.events import (
    GENESIS,
    Content,
    Event,
    PlanApproved,
    RoundCommitted,
    RoundReleased,
    RoundReserved,
)
from dpbitfit.ledger.snapshot import Snapshot
from dpbitfit.ledger.verify import History

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

    @classmethod
    def of_history(cls, history: History) -> Self:
        """The activity of an account, all events of which were read."""
        activity = cls()
        for entry in history.entries:
            activity._apply(entry.content, entry.at)
        activity.sequence, activity.head = history.account.sequence, history.account.head
        return activity

    def add(self, event: Event) -> None:
        """Add the next event; LedgerError, naming it, where it does not follow."""
        entry = read_next(event, self.sequence, self.head)
        self._apply(entry.content, entry.at)
        self.sequence, self.head = event.sequence, event.hash

    def _apply(self, content: Content, at: datetime) -> None:
        match content:
            case PlanApproved():
                self.run, self.counts = content.run, ()
            case RoundReserved(run=run, round=number, key=key):
                self.run, self.counts = run, content.counts
                self.open[key] = OpenRound(key, run, number, at)
                self.asked_since = self.asked_since or at
            case RoundCommitted() | RoundReleased():
                end = _end(content.outcome)
                self.open.pop(content.key, None)
                self.ends[end] += 1
                if end == "reply":
                    self.last_seen = at
                if end != "no reply":
                    self.asked_since = None

    @classmethod
    def of_tail(
        cls, tail: Iterable[Event], ends: Mapping[str, int], open_keys: set[str]
    ) -> Self | None:
        """The activity by an account's last events; None where they say too little.

        ``ends`` counts how its rounds ended, by their rows; ``open_keys`` are those
        that did not.
        """
        events = list(tail)
        if not events:
            return None
        activity = cls(events[0].sequence - 1, read(events[0]).previous)
        for event in events:
            activity.add(event)
        if activity.sequence > len(events):
            answered = activity.ends.total() > activity.ends["no reply"]
            seen = activity.last_seen or not ends.get("reply")
            is_complete = activity.open.keys() == open_keys
            if not (answered and seen and activity.run and is_complete):
                return None
        activity.ends = Counter(ends)
        return activity


def catch_up(
    snapshot: Snapshot, accounts: Mapping[int, Account], known: Mapping[int, Activity | None]
) -> tuple[dict[int, Activity], dict[int, str]]:
    """The accounts' activities as they are now, and why those that are missing are.

    ``known`` are older ones, which are used up; None for an account that could not
    be read, all events of which are read.
    """
    activities: dict[int, Activity] = {}
    broken: dict[int, str] = {}
    near = {
        account_id: activity
        for account_id, activity in known.items()
        if activity and _is_near(activity, accounts[account_id])
    }
    new = accounts.keys() - near.keys()
    outcomes, open_keys = snapshot.outcomes(new), snapshot.open_keys(new)
    lengths = dict.fromkeys(accounts, _TAIL)
    for account_id, activity in near.items():
        lengths[account_id] = _rounded(accounts[account_id].sequence - activity.sequence)
    tails = snapshot.last_events(lengths)
    for account_id, account in accounts.items():
        current, tail = near.get(account_id), tails.get(account_id, ())
        try:
            if current is not None:
                for event in tail:
                    if event.sequence > current.sequence:
                        current.add(event)
            elif known.get(account_id, ...) is not None:
                ends = _ends(outcomes[account_id])
                current = Activity.of_tail(tail, ends, open_keys[account_id])
        except LedgerError:
            current = None
        try:
            if current is None or not _is_at(current, account):
                current = _whole(snapshot, account_id)
            if not _is_at(current, account):
                raise LedgerError("its last event is not the one that its row names")
        except LedgerError as error:
            broken[account_id] = str(error)
        else:
            activities[account_id] = current
    return activities, broken


def _whole(snapshot: Snapshot, account_id: int) -> Activity:
    activity = Activity()
    for event in snapshot.events(account_id):
        activity.add(event)
    return activity


def _is_at(activity: Activity, account: Account) -> bool:
    return (activity.sequence, activity.head) == (account.sequence, account.head)


def _is_near(activity: Activity, account: Account) -> bool:
    return 0 <= account.sequence - activity.sequence <= _MOST


def _rounded(number: int) -> int:
    """A power of two that is no smaller: a few statements for all accounts."""
    return 1 << max(0, number - 1).bit_length()


def _end(outcome: str) -> str:
    return outcome if outcome in ENDS else OTHER


def _ends(outcomes: Mapping[str, int]) -> Counter[str]:
    ends: Counter[str] = Counter()
    for outcome, count in outcomes.items():
        ends[_end(outcome)] += count
    return ends
