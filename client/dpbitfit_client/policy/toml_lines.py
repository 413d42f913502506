"""The line of each key of a TOML file, which ``tomllib`` does not give."""

import re
import tomllib
from collections.abc import Iterator

Key = tuple[str, ...]

_TOKEN = re.compile(
    r"""
    \"{3}(?:[^\\]|\\.)*?\"{3}\"{0,2}   # a text over several lines, which may end in quotes
    | '{3}.*?'{3}'{0,2}
    | "(?:[^"\\\n]|\\.)*"
    | '[^'\n]*'
    | \#[^\n]*
    | [A-Za-z0-9_-]+
    | \n
    | [^\s]
    """,
    re.VERBOSE | re.DOTALL,
)
_END = "\n"


def lines_of_keys(text: str) -> dict[Key, int]:
    """The line, from 1, on which each key and table first occurs.

    ``text`` is valid TOML: this looks for keys and checks nothing.
    """
    return _Scan(text).lines


class _Scan:
    """One pass over the tokens, with the current one at hand."""

    def __init__(self, text: str) -> None:
        self.lines: dict[Key, int] = {}
        self._tokens = _tokens(text)
        self._step()
        table: Key = ()
        while self._token:
            if self._token == "[":
                table = self._header()
            elif self._token == _END:
                self._step()
            else:
                self._pair(table)

    def _step(self) -> None:
        self._token, self._line = next(self._tokens, ("", 0))

    def _header(self) -> Key:
        """``[a.b]`` or ``[[a.b]]``."""
        while self._token == "[":
            self._step()
        key = self._key(())
        while self._token == "]":
            self._step()
        return key

    def _key(self, table: Key) -> Key:
        """The key at hand, below ``table``; each of its parts is noted."""
        key = table
        while self._token not in ("=", "]", ""):
            if self._token != ".":
                key += (_plain(self._token),)
                self.lines.setdefault(key, self._line)
            self._step()
        return key

    def _pair(self, table: Key) -> None:
        key = self._key(table)
        self._step()
        self._value(key)

    def _value(self, key: Key) -> None:
        if self._token in ("[", "{"):
            inside, end = (self._value, "]") if self._token == "[" else (self._pair, "}")
            self._step()
            while self._token not in (end, ""):
                if self._token in (",", _END):
                    self._step()
                else:
                    inside(key)
            self._step()
        else:
            while self._token not in (",", "]", "}", _END, ""):
                self._step()


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    """Each token with its line; comments are left out."""
    line = 1
    for match in _TOKEN.finditer(text):
        if not match[0].startswith("#"):
            yield match[0], line
        line += match[0].count("\n")


def _plain(token: str) -> str:
    """A key without its quotes."""
    if token[0] not in "\"'":
        return token
    return str(tomllib.loads(f"key = {token}")["key"])
