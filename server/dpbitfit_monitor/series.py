"""What an account has accrued over its rounds; informative, as the account's figure is."""

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime

from dpbitfit.accounting.mechanism import Counts, Mechanism, checked
from dpbitfit.ledger import budget
from dpbitfit.ledger.budget import Epsilon
from dpbitfit.ledger.events import CountsRaised, Entry, RoundCommitted, RoundReserved
from dpbitfit.ledger.verify import History
from dpbitfit_monitor.views import Point

_MOST_POINTS = 60


def accrued(history: History, epsilon: Epsilon) -> tuple[Point, ...]:
    """After each committed round; where they are many, after each 2nd, 4th or 8th ...

    The last one is always there, and no other point ever moves, so that a new
    round asks for one new bound. What was taken over from the other side counts
    from then on. Of what is reserved, nothing is in here. It never falls: fewer
    rounds cost no more than many, so that a later bound, where it is the smaller,
    is one of an earlier round too.
    """
    account, allotments = history.account, history.state.allotments
    ends = list(_committed(history.entries))
    every = 1
    while len(ends) >= _MOST_POINTS * every:
        every *= 2
    shown = [end for number, end in enumerate(ends, 1) if number % every == 0 or end is ends[-1]]
    points: list[Point] = []
    for rounds, at, counts in reversed(shown):
        bound = budget.accrued(account, allotments, counts, account.delta, epsilon)
        if points and points[-1].bound.epsilon < bound.epsilon:
            bound = points[-1].bound
        points.append(Point(rounds, at, bound))
    return tuple(reversed(points))


def _committed(entries: Iterable[Entry]) -> Iterator[tuple[int, datetime, Counts]]:
    """After each committed round: how many there were, when, and all steps so far."""
    reserved: dict[str, Counts] = {}
    total: Counter[Mechanism] = Counter()
    rounds = 0
    for entry in entries:
        match entry.content:
            case RoundReserved(key=key, counts=counts):
                reserved[key] = counts
                continue
            case RoundCommitted(key=key):
                added = reserved.pop(key)
                rounds += 1
            case CountsRaised(counts=added):
                pass
            case _:
                continue
        for mechanism, steps in added:
            total[mechanism] += steps
        yield rounds, entry.at, checked(total)
