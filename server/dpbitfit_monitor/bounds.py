"""Epsilon of many fixed compositions: a quick upper bound at once, the smallest when it is known.

The smallest takes about a second of computing, which no request waits for.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import TypeVar

from dpbitfit.accounting import composition
from dpbitfit.accounting.composition import Bound
from dpbitfit.accounting.mechanism import Counts
from dpbitfit.errors import AccountingError
from dpbitfit.ledger.bounds import is_quick, quick_bounds

Place = tuple[Counts, float]
Value = TypeVar("Value")

_MOST = 65536  # bounds that are cached, and compositions that wait


class Bounds:
    """Bounds by counts and delta, for many threads; ``refine`` or a worker makes the smallest."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._exact: OrderedDict[Place, Bound | AccountingError] = OrderedDict()
        self._quick: OrderedDict[Place, Bound] = OrderedDict()
        self._waiting: dict[Place, float] = {}
        self._news = threading.Event()

    def get(self, counts: Counts, delta: float, urgency: float = 0.0) -> Bound:
        """The best bound known. One that could be smaller waits to be made, the urgent first.

        Raises AccountingError where no figure can be given truthfully.
        """
        place = (counts, delta)
        with self._lock:
            known = self._exact.get(place)
            if known is not None:
                self._exact.move_to_end(place)
            else:
                known = self._quick.get(place) or quick_bounds([counts], delta)[0]
                if is_quick(known):
                    _cache(self._quick, place, known)
                    if len(self._waiting) < _MOST:
                        self._waiting[place] = max(urgency, self._waiting.get(place, urgency))
                        self._news.set()
        if isinstance(known, AccountingError):
            raise AccountingError(str(known))
        return known

    def take_over(self, bounds: Iterable[tuple[Place, Bound]]) -> None:
        """Add smallest bounds that were made elsewhere."""
        for place, bound in bounds:
            self.put(place, bound)

    @property
    def waiting(self) -> int:
        """How many bounds could be smaller."""
        return len(self._waiting)

    def urgent(self, seconds: float = 0.0) -> Place | None:
        """What waits most urgently for its smallest bound; None where nothing came to wait."""
        self._news.wait(seconds)
        with self._lock:
            if not self._waiting:
                self._news.clear()
                return None
            return max(self._waiting, key=lambda place: self._waiting[place])

    def put(self, place: Place, smallest: Bound | AccountingError) -> None:
        """Add the smallest bound of a place, or why there is none; it waits no more."""
        with self._lock:
            _cache(self._exact, place, smallest)
            self._waiting.pop(place, None)

    def refine(self) -> bool:
        """Make the most urgent of the smallest bounds; False where none waits."""
        place = self.urgent()
        if place is not None:
            self.put(place, smallest(place))
        return place is not None


def smallest(place: Place) -> Bound | AccountingError:
    """The smallest bound, or why there is none."""
    counts, delta = place
    try:
        return composition.epsilon(dict(counts), delta)
    except AccountingError as error:
        return error


def _cache(cache: OrderedDict[Place, Value], place: Place, value: Value) -> None:
    cache[place] = value
    if len(cache) > _MOST:
        cache.popitem(last=False)
