"""Numbers, times and events as text."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from dpbitfit.accounting.composition import Bound
from dpbitfit.accounting.mechanism import Counts
from dpbitfit.errors import LedgerError
from dpbitfit.ledger import AccountName
from dpbitfit.ledger.events import Event
from dpbitfit.ledger.export import STATEMENTS
from dpbitfit.ledger.fold import AccountState
from dpbitfit.ledger.status import ACCRUED
from dpbitfit_monitor.views import AccountView, is_exact

_EVENTS = {
    "open": "account opened",
    "budget": "budget changed",
    "allot": "plan approved",
    "reserve": "round requested",
    "commit": "round ended, spent",
    "release": "round ended, not spent",
    "void": "approved steps withdrawn",
    "rebase": "taken over from the other ledger",
}
_FACTS = ("run", "round", "outcome", "proof", "budget", "delta", "reason")
_LONGEST_FACT = 300  # characters


@dataclass(frozen=True)
class EventLine:
    """One event as text; ``is_bad`` for the first corrupt one."""

    sequence: int
    at: str
    kind: str
    facts: tuple[tuple[str, str], ...]
    hash: str
    is_bad: bool = False


def figure(bound: Bound) -> str:
    """An epsilon; a quick bound, which a smaller one will replace, is marked."""
    return f"{'' if is_exact(bound) else '≤ '}{bound.epsilon:.3f}"


def percent(ratio: float) -> str:
    """A ratio as a whole percentage, not broken at the end of a line."""
    return f"{ratio * 100:.0f}\N{NO-BREAK SPACE}%"


def steps(counts: Counts) -> str:
    """Steps of each mechanism."""
    return ", ".join(
        f"{number:,} at noise {mechanism.noise_multiplier:g}, rate {mechanism.sampling_rate:g}"
        for mechanism, number in counts
    )


def metrics(values: Mapping[str, float | None]) -> str:
    """The metrics that were computed, by name."""
    return ", ".join(f"{name} {value:.3f}" for name, value in values.items() if value is not None)


def ago(since: timedelta) -> str:
    """How long ago, roughly."""
    minutes = int(since.total_seconds() // 60)
    if minutes < 1:
        return "just now"
    for unit, size in (("d", 1440), ("h", 60)):
        if minutes >= size:
            return f"{minutes // size} {unit} ago"
    return f"{minutes} min ago"


def moment(at: datetime) -> str:
    """A moment, to the second."""
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def event_line(event: Event, bad: int | None = None) -> EventLine:
    """An event as text, also a corrupt one."""
    try:
        body = json.loads(event.body)
        fields = {key: body[key] for key in _FACTS if key in body}
        at = str(body.get("at", ""))
    except (ValueError, TypeError, AttributeError, RecursionError):
        fields, at = {"content": "cannot be read"}, ""
    facts = tuple((key, str(value)[:_LONGEST_FACT]) for key, value in fields.items())
    kind = _EVENTS.get(event.kind, event.kind)
    return EventLine(event.sequence, at, kind, facts, event.hash, event.sequence == bad)


def first_bad(name: AccountName, events: Iterable[Event]) -> int | None:
    """The first event that breaks the chain; None where the fault is in another table."""
    tally = AccountState(name)
    for event in events:
        try:
            tally.add(event)
        except LedgerError:
            return event.sequence
    return None


def general_sentence(views: Iterable[AccountView]) -> str:
    """What the figures of many accounts mean: unit, adjacency, delta, accountant, and limits."""
    accounts = list(views)
    bounds = [bound for view in accounts for bound in (view.guaranteed.bound, view.accrued.bound)]
    return (
        "Guaranteed is an upper bound on the privacy loss of one account for adding or removing "
        "one unit, that is all of its records "
        f"(unit: {_several(view.name.unit for view in accounts)}), at the delta of its account "
        f"({_several(f'{view.delta:g}' for view in accounts)}). "
        f"By {_several(f'{bound.accountant} ({bound.version})' for bound in bounds)}. "
        f"Accrued is {ACCRUED}. Left is the part of the budget that no plan is approved for. "
        f"Not covered: {not_covered()}."
    )


def not_covered() -> str:
    """What no figure of the ledger covers."""
    return "; ".join(STATEMENTS["not_covered"])


def _several(values: Iterable[Any]) -> str:
    distinct = sorted(set(values))
    more = f" and {len(distinct) - 3} more" if len(distinct) > 3 else ""
    return (", ".join(distinct[:3]) or "none yet") + more
