"""A TOML file read with care: every fault with its line, its key and what to write instead.

Faults are collected, so that a person reads all of them at once. A value that is
at fault is replaced by an empty one, which no later check objects to; ``check``
then refuses the whole file.
"""

import difflib
import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from dpbitfit.errors import InputError
from dpbitfit_client.policy.file_ownership import check_file
from dpbitfit_client.policy.toml_lines import Key, lines_of_keys

MOST_FAULTS = 10
MOST_BYTES = 1 << 20
_KINDS = {bool: "a truth value", list: "a list", dict: "a table"}

T = TypeVar("T")


@dataclass(frozen=True)
class Rule(Generic[T]):
    """What a value must be, in words that follow "must be", and whether one is."""

    says: str
    holds: Callable[[T], bool]


def between(low: float, high: float) -> Rule[float]:
    """A number from ``low`` to ``high``, both included."""
    return Rule(f"a number from {low:,} to {high:,}", lambda value: low <= value <= high)


class Document:
    """A TOML file, and what was found wrong in it so far."""

    def __init__(self, path: Path) -> None:
        """Read it; InputError where it cannot be, or where others could change it."""
        self.path = path
        self._faults: list[tuple[int, str]] = []
        text = _text(path)
        try:
            values = tomllib.loads(text)
            self._lines = lines_of_keys(text)
        except (ValueError, RecursionError) as error:
            said = (
                error if isinstance(error, tomllib.TOMLDecodeError) else "it is nested too deeply"
            )
            raise InputError(f"{path}: this is not TOML: {said}") from error
        self.root = Table(self, (), values)

    def fault(self, key: Key, what: str) -> None:
        """Note what is wrong with a key, or with a table that lacks it."""
        known = [key[:length] for length in range(len(key), 0, -1) if key[:length] in self._lines]
        line = self._lines[known[0]] if known else 1
        self._faults.append((line, f"{self.path}:{line}: {dotted(key)}: {what}"))

    def check(self) -> None:
        """Raise InputError with the first faults, one a line, if there are any."""
        if not self._faults:
            return
        said = [what for _, what in sorted(self._faults, key=lambda fault: fault[0])]
        more = len(said) - MOST_FAULTS
        if more > 0:
            said[MOST_FAULTS - 1 :] = [f"{self.path}: and {more + 1} more faults"]
        raise InputError("\n".join(said))


class Table:
    """One table of a document; ``values`` is None for one that is itself at fault."""

    def __init__(self, document: Document, key: Key, values: Mapping[str, Any] | None) -> None:
        self._document = document
        self._key = key
        self._values = values
        self._known: list[str] = []

    def __contains__(self, name: str) -> bool:
        return self._values is not None and name in self._values

    def fault(self, name: str, what: str) -> None:
        """Note what is wrong with one key of this table."""
        if self._values is not None:
            self._document.fault((*self._key, name), what)

    def text(self, name: str, rule: Rule[str], default: str | None = None) -> str:
        """A text; "" where it is at fault."""
        return str(self._get(name, (str,), rule, default) or "")

    def number(self, name: str, rule: Rule[float], default: float | None = None) -> float:
        """A number; NaN, which compares with nothing, where it is at fault."""
        real = Rule[Any](rule.says, lambda value: rule.holds(_real(value)))
        value = self._get(name, (int, float), real, default)
        return math.nan if value is None else float(value)

    def whole(self, name: str, most: int, default: int | None = None) -> int:
        """A whole number from 1; 0 where it is at fault."""
        rule = Rule[int](f"a whole number from 1 to {most:,}", lambda value: 1 <= value <= most)
        return int(self._get(name, (int,), rule, default) or 0)

    def chosen(
        self, name: str, choices: Sequence[str], default: Sequence[str] | None = None
    ) -> tuple[str, ...]:
        """Some of the ``choices``, at least one and none twice; none where they are at fault."""
        among = f"among {', '.join(map(_shown, choices))}"
        rule = Rule[list[Any]](f"a list of at least one {among}", bool)
        values = self._get(name, (list,), rule, default) or ()
        wrong = [_shown(value) for value in values if value not in choices]
        if wrong:
            self.fault(name, f"{wrong[0]} is not {among}")
            return ()
        if len(set(values)) < len(values):
            self.fault(name, "names one twice")
        return tuple(values)

    def table(self, name: str) -> "Table":
        """A table that must be there."""
        key = (*self._key, name)
        rule = Rule[Any](f"a table: [{dotted(key)}]", lambda _: True)
        return Table(self._document, key, self._get(name, (dict,), rule, None))

    def optional(self, name: str) -> "Table | None":
        """A table that may be left out."""
        if name in self:
            return self.table(name)
        self._known.append(name)
        return None

    def tables(self, name: str, rule: Rule[str], optional: bool = False) -> dict[str, "Table"]:
        """Tables by names that a person chose, at least one unless ``optional``."""
        outer = self.optional(name) if optional else self.table(name)
        if outer is None:
            return {}
        names = outer._values or {}
        if not names and not optional and outer._values is not None:
            self.fault(name, "names nothing")
        for key in names:
            if not rule.holds(key):
                outer.fault(key, f"this name must be {rule.says}")
        return {key: outer.table(key) for key in names}

    def done(self) -> None:
        """Note every key that nobody asked for."""
        for name in self._values or ():
            if name not in self._known:
                near = difflib.get_close_matches(name, self._known, n=1)
                known = f"the keys here are {', '.join(self._known)}"
                self.fault(name, f"unknown; {f'do you mean {near[0]}?' if near else known}")

    def _get(self, name: str, kinds: tuple[type, ...], rule: Rule[Any], default: Any) -> Any:
        self._known.append(name)
        if name not in self:
            if default is None:
                self.fault(name, f"missing; it must be {rule.says}")
            return default
        assert self._values is not None
        value = self._values[name]
        if type(value) not in kinds or not rule.holds(value):
            self.fault(name, f"must be {rule.says}, not {_shown(value)}")
            return None
        return value


def dotted(key: Key) -> str:
    """A key as TOML writes it."""
    return ".".join(
        part
        if part.replace("-", "").replace("_", "").isalnum() and part.isascii()
        else _shown(part)
        for part in key
    )


def _text(path: Path) -> str:
    """A file's text, if nobody but this user and root could have put other words there."""
    try:
        with path.open("rb") as file:
            check_file(path, file.fileno())
            content = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "this is no path"
        raise InputError(f"{path}: cannot be read: {reason}") from error
    if len(content) > MOST_BYTES:
        raise InputError(f"{path}: is larger than {MOST_BYTES:,} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}:{line}: this is not UTF-8 text") from error


def _real(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _shown(value: Any) -> str:
    """A value as a person may recognise it: short, and without a URL's password."""
    if type(value) in _KINDS:
        return _KINDS[type(value)]
    if isinstance(value, str):
        shown = f"{value.partition('://')[0]}://..." if "://" in value else value
        return repr(shown if len(shown) <= 60 else shown[:57] + "...")
    if isinstance(value, int) and abs(value) > 10**18:
        return "so large a number"
    return str(value)
