"""Epsilon of many fixed bags: a quick upper bound at once, the smallest as soon as it is known.

Both bound a bag that was fixed beforehand; one whose accountant is ``status.QUICK`` is loose.
The smallest takes about a second of computing, so it is made where nobody waits.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import TypeVar

from dpbitfit.accounting import composition
from dpbitfit.accounting.composition import Bound, Counts
from dpbitfit.errors import AccountingError
from dpbitfit.ledger import status

Place = tuple[Counts, float]
Value = TypeVar("Value")

_MOST = 65536  # bounds that are remembered, and bags that wait


class Bounds:
    """Bounds by bag and delta, for many threads; somebody makes the smallest ones that wait."""

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
                known = self._quick.get(place) or status.quick([counts], delta)[0]
                if known.accountant == status.QUICK:
                    _remember(self._quick, place, known)
                    if len(self._waiting) < _MOST:
                        self._waiting[place] = max(urgency, self._waiting.get(place, urgency))
                        self._news.set()
        if isinstance(known, AccountingError):
            raise AccountingError(str(known))
        return known

    def keep(self, bounds: Iterable[tuple[Place, Bound]]) -> None:
        """Take over smallest bounds that were made elsewhere."""
        for place, bound in bounds:
            self.found(place, bound)

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

    def found(self, place: Place, made: Bound | AccountingError) -> None:
        """Take over what was made for a place; there is nothing smaller to wait for."""
        with self._lock:
            _remember(self._exact, place, made)
            self._waiting.pop(place, None)

    def refine(self) -> bool:
        """Make the most urgent of the smallest bounds; False where none waits."""
        place = self.urgent()
        if place is not None:
            self.found(place, smallest(place))
        return place is not None


def smallest(place: Place) -> Bound | AccountingError:
    """The smallest bound, or why there is none."""
    counts, delta = place
    try:
        return composition.epsilon(dict(counts), delta)
    except AccountingError as error:
        return error


def _remember(kept: OrderedDict[Place, Value], place: Place, value: Value) -> None:
    kept[place] = value
    if len(kept) > _MOST:
        kept.popitem(last=False)
