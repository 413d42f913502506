"""Long lists: which of many entries are shown, and in which order."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, Self, TypeVar
from urllib.parse import urlencode

from dpbitfit_monitor.views import AccountView, Overview, State, UnreadableAccount

Row = AccountView | UnreadableAccount
Entry = TypeVar("Entry")

PAGE = 50  # entries
_LONGEST_QUERY = 200  # characters
_NEVER = datetime(1, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Page(Generic[Entry]):
    """Entries ``first`` to ``last`` of ``total``, counted from 1; a page number from 1."""

    entries: Sequence[Entry]
    number: int
    total: int
    size: int = PAGE

    @classmethod
    def select(cls, entries: Sequence[Entry], requested: str, size: int = PAGE) -> Self:
        """The requested page, or the one nearest to it."""
        number = page_number(requested, len(entries), size)
        return cls(entries[(number - 1) * size : number * size], number, len(entries), size)

    @property
    def pages(self) -> int:
        """How many pages there are; one at least."""
        return max(1, -(-self.total // self.size))

    @property
    def first(self) -> int:
        """The number of the first entry shown."""
        return min(self.total, (self.number - 1) * self.size + 1)

    @property
    def last(self) -> int:
        """The number of the last entry shown."""
        return min(self.total, self.number * self.size)


def page_number(requested: str, total: int, size: int = PAGE) -> int:
    """A page that exists, whatever was requested."""
    is_number = requested.isascii() and requested.isdigit() and len(requested) < 10
    return max(1, min(int(requested) if is_number else 1, -(-total // size)))


def _account(row: Row) -> Any:
    return tuple(part.casefold() for part in row.name)


def _state(row: Row) -> Any:
    return list(State).index(row.state), _value(row, lambda view: view.used_ratio, math.inf)


def _value(row: Row, value: Callable[[AccountView], Any], missing: Any) -> Any:
    return value(row) if isinstance(row, AccountView) else missing


# Columns by which accounts can be sorted.
SORTS: Mapping[str, Callable[[Row], Any]] = {
    "account": _account,
    "used": lambda row: _value(row, lambda view: view.used_ratio, math.inf),
    "guaranteed": lambda row: _value(row, lambda view: view.guaranteed_ratio, math.inf),
    "left": lambda row: _value(row, lambda view: view.left, -1.0),
    "rounds": lambda row: _value(row, _rounds, -1.0),
    "seen": lambda row: _value(row, lambda view: view.last_seen or _NEVER, _NEVER),
    "state": _state,
}


def _rounds(view: AccountView) -> float:
    return math.inf if view.rounds_left is None else view.rounds_left


@dataclass(frozen=True)
class Choice:
    """The filter and order of a list; a sort with a minus is from the greatest down."""

    text: str = ""
    state: str = ""
    sort: str = "-state"

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> Self:
        """The choice in an address; unknown values are left out."""
        state, sort = query.get("state", ""), query.get("sort", cls.sort)
        return cls(
            query.get("q", "")[:_LONGEST_QUERY].strip(),
            state if state in list(State) else "",
            sort if sort.removeprefix("-") in SORTS else cls.sort,
        )

    def query(self, **changes: str) -> str:
        """This choice as the query of an address, with changes."""
        fields = {"q": self.text, "state": self.state, "sort": self.sort, **changes}
        return "?" + urlencode({key: value for key, value in fields.items() if value})

    def direction(self, column: str) -> str:
        """How a column is sorted, as ``aria-sort`` has it; "" where it is not."""
        directions = {column: "ascending", f"-{column}": "descending"}
        return directions.get(self.sort, "")

    def other(self, column: str) -> str:
        """The sort that a click on a column's head leads to."""
        return f"-{column}" if self.sort == column else column

    def rows(self, overview: Overview) -> list[Row]:
        """The accounts that match, in order."""
        wanted = self.text.casefold()
        rows: list[Row] = [*overview.accounts, *overview.unreadable]
        rows = [row for row in rows if not self.state or row.state == self.state]
        rows = [row for row in rows if wanted in str(row.name).casefold()]
        rows.sort(key=_account)
        return sorted(
            rows, key=SORTS[self.sort.removeprefix("-")], reverse=self.sort.startswith("-")
        )


def counts(overview: Overview) -> Counter[State]:
    """How many accounts are in each state."""
    rows: tuple[Row, ...] = (*overview.accounts, *overview.unreadable)
    return Counter(row.state for row in rows)
