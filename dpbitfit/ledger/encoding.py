"""Events as stored text: the only place where it is written and read.

Reading is strict: an unknown kind or field, another type, or any other spelling than the
one that is written is refused, not guessed.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from datetime import datetime
from functools import lru_cache
from types import NoneType
from typing import Any, NamedTuple, get_args, get_type_hints

from dpbitfit.accounting.mechanism import Counts
from dpbitfit.errors import LedgerError
from dpbitfit.ledger.account import AccountName
from dpbitfit.ledger.canonical import (
    counts_from_json,
    counts_to_json,
    number_from_text,
    number_to_text,
    to_json,
)
from dpbitfit.ledger.events import CONTENTS, Content, Entry, Event, KeyVoided


def write(entry: Entry) -> Event:
    """The stored form of an entry: the only place where an event's text is made."""
    content = entry.content
    values = {
        name: field.to_json(getattr(content, name))
        for name, field in _FIELDS[type(content)].items()
        if getattr(content, name) is not None
    }
    body = to_json(
        {
            "account": list(entry.account),
            "sequence": entry.sequence,
            "previous": entry.previous,
            "kind": content.kind,
            "at": _TIME.to_json(entry.at),
            **values,
        }
    )
    return Event(entry.sequence, content.kind, body, _hash(body))


def read(event: Event) -> Entry:
    """The entry of a stored event: the only place where an event's text is read.

    Raises LedgerError where the text is not exactly what ``write`` would make of it.
    """
    try:
        body = json.loads(event.body)
    except (ValueError, RecursionError) as error:
        raise _broken(event, f"its content cannot be read ({error})") from error
    if _hash(event.body) != event.hash:
        raise _broken(event, "its hash is not that of its content")
    try:
        # With fields that are read strictly, this makes it exactly what ``write`` makes of them.
        if to_json(body) != event.body:
            raise ValueError("it is not in its canonical form")
        site, dataset, unit = (_STR.from_json(part) for part in body.pop("account"))
        sequence, kind = _INT.from_json(body.pop("sequence")), body.pop("kind")
        previous, at = _STR.from_json(body.pop("previous")), _TIME.from_json(body.pop("at"))
        content = _content(kind, body)
    except (AttributeError, KeyError, ValueError, TypeError, RecursionError, LedgerError) as error:
        reason = f"no field {error}" if isinstance(error, KeyError) else error
        raise _broken(event, f"its content cannot be read ({reason})") from error
    if (sequence, kind) != (event.sequence, event.kind):
        raise _broken(event, "its columns are not what its content says")
    return Entry(AccountName(site, dataset, unit), sequence, previous, at, content)


def read_next(event: Event, sequence: int, head: str) -> Entry:
    """``read`` for the event behind the one with this sequence number and hash.

    Raises LedgerError where it is another.
    """
    if event.sequence != sequence + 1:
        raise _broken(event, f"event {sequence + 1} should stand here")
    entry = read(event)
    if entry.previous != head:
        raise _broken(event, "it does not follow the event before it")
    return entry


class _Field(NamedTuple):
    """How a field is written as JSON and read again: strictly, so that nothing is guessed."""

    to_json: Callable[[Any], Any]
    from_json: Callable[[Any], Any]
    required: bool = True


def _scalar(kind: type) -> _Field:
    def check(value: Any) -> Any:
        if type(value) is not kind:
            raise TypeError(f"{value!r:.40} is no {kind.__name__}")
        return value

    return _Field(check, check)


def _time_to_text(at: datetime) -> str:
    return at.isoformat(timespec="seconds")


@lru_cache(maxsize=4096)
def _time_from_text(text: Any) -> datetime:
    at = datetime.fromisoformat(text)
    if at.tzinfo is None or _time_to_text(at) != text:
        raise ValueError(f"{text!r:.40} is not the canonical text of a time")
    return at


_STR, _INT, _BOOL = _scalar(str), _scalar(int), _scalar(bool)
_TIME = _Field(_time_to_text, _time_from_text)
_TYPES: Mapping[Any, _Field] = {
    str: _STR,
    int: _INT,
    bool: _BOOL,
    float: _Field(number_to_text, number_from_text),
    Counts: _Field(counts_to_json, counts_from_json),
}


def _field(hint: Any) -> _Field:
    options = [kind for kind in get_args(hint) if kind is not NoneType]
    if NoneType in get_args(hint):
        return _TYPES[options[0]]._replace(required=False)
    return _TYPES[hint]


_FIELDS: Mapping[type, Mapping[str, _Field]] = {
    kind: {field.name: _field(get_type_hints(kind)[field.name]) for field in fields(kind)}
    for kind in CONTENTS
}
_REQUIRED: Mapping[type, frozenset[str]] = {
    kind: frozenset(name for name, field in known.items() if field.required)
    for kind, known in _FIELDS.items()
}
_KINDS: Mapping[Any, type[Content]] = {
    content.kind: content for content in CONTENTS if content is not KeyVoided
}


def _content(kind: Any, body: Mapping[str, Any]) -> Content:
    # Two kinds of content are stored as void: of a key, or of steps.
    chosen = KeyVoided if kind == KeyVoided.kind and "key" in body else _KINDS.get(kind)
    if chosen is None:
        raise ValueError(f"of the unknown kind {kind!r:.40}")
    known, required = _FIELDS[chosen], _REQUIRED[chosen]
    if unknown := body.keys() - known.keys():
        raise ValueError(f"an unknown field {min(unknown)!r:.40}")
    if missing := required - body.keys():
        raise ValueError(f"no field {min(missing)!r}")
    return chosen(**{name: known[name].from_json(value) for name, value in body.items()})


def _hash(body: str) -> str:
    return hashlib.sha256(body.encode(errors="surrogatepass")).hexdigest()


def _broken(event: Event, problem: str) -> LedgerError:
    return LedgerError(f"event {event.sequence}: {problem}")
