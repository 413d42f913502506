"""What an account has accrued over its rounds; informative, as the account's figure is."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime

from dpbitfit.accounting.composition import Counts, Mechanism, checked
from dpbitfit.ledger import Account, budget
from dpbitfit.ledger.budget import Epsilon, Holdings
from dpbitfit.ledger.events import Event, counts_from_text
from dpbitfit_monitor.views import Point

_MOST_POINTS = 60


def accrued(
    account: Account, holdings: Holdings, events: Iterable[Event], epsilon: Epsilon
) -> tuple[Point, ...]:
    """After each committed round; where they are many, after each 2nd, 4th or 8th ...

    The last one is always there, and no other point ever moves, so that a new
    round asks for one new bound. What was taken over from the other side counts
    from then on. Of what is reserved, nothing is in here. It never falls: fewer
    rounds cost no more than many, so that a later bound, where it is the smaller,
    is one of an earlier round too.
    """
    ends = list(_committed(events))
    every = 1
    while len(ends) >= _MOST_POINTS * every:
        every *= 2
    kept = [end for number, end in enumerate(ends, 1) if number % every == 0 or end is ends[-1]]
    points: list[Point] = []
    for rounds, at, counts in reversed(kept):
        bound = budget.accrued(account, holdings, counts, account.delta, epsilon)
        if points and points[-1].bound.epsilon < bound.epsilon:
            bound = points[-1].bound
        points.append(Point(rounds, at, bound))
    return tuple(reversed(points))


def _committed(events: Iterable[Event]) -> Iterator[tuple[int, datetime, Counts]]:
    """After each committed round: how many there were, when, and all steps so far."""
    reserved: dict[str, Counts] = {}
    total: Counter[Mechanism] = Counter()
    rounds = 0
    for event in events:
        if event.kind not in ("reserve", "commit", "rebase"):
            continue
        body = json.loads(event.body)
        if event.kind == "reserve":
            reserved[body["key"]] = _counts(body)
            continue
        for mechanism, steps in reserved.pop(body["key"]) if "key" in body else _counts(body):
            total[mechanism] += steps
        rounds += event.kind == "commit"
        yield rounds, datetime.fromisoformat(body["at"]), checked(total)


def _counts(body: dict[str, object]) -> Counts:
    return counts_from_text(json.dumps(body["counts"], separators=(",", ":")))
