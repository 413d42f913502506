"""What pydantic finds wrong, as faults that name the key and say what to write instead."""

import difflib
import re
from collections.abc import Iterator, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from dpbitfit.validate import Form, one_of

Key = tuple[str, ...]

_KINDS: dict[type, str] = {list: "list", tuple: "list", dict: "table"}
_BARE = "[A-Za-z0-9_-]{1,60}"
_LONGEST = 60  # characters of a value that is shown
_MISSHAPEN = ("missing", "extra_forbidden", "json_invalid")  # pydantic's kinds of faults


class Fault:
    """One thing that is wrong with values for a model.

    ``key`` says where, without the places in a list.
    """

    def __init__(self, details: ErrorDetails, model: type[BaseModel]) -> None:
        self._details = details
        self._is_name = False
        self._expected: Any = model
        self._input = details["input"]
        self.key: Key = ()
        place = details["loc"]
        # A key that is not known can be what a field is called in Python: it is none to go into.
        ends = details["type"] == "extra_forbidden"
        for part in place[: len(place) - ends]:
            self._step(part)
        if ends:
            self.key += (str(place[-1]),)
        if details["type"].startswith("union_tag"):
            self._step_to_tag(details["ctx"])

    def _step(self, part: int | str) -> None:
        """Go one part of the fault's place down."""
        kind, _ = _opened(self._expected)
        inner = get_args(kind)
        if isinstance(part, int):  # in a list
            self._expected = inner[0]
            return
        if get_origin(kind) in (Union, UnionType):
            # The part is a tag, or where there is none, pydantic's name of one of the types.
            self._expected = next((model for model in inner if part in _tags(model)), kind)
            return
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            field = _fields(kind).get(part) or kind.model_fields.get(part)
            if field is None:
                self._is_name = True  # pydantic ends the place of a mapping's own key so
                return
            self._expected = Annotated[field.annotation, field]
            part = field.alias or part
        elif inner and issubclass(get_origin(kind), Mapping):
            self._names, self._expected = inner
        else:
            self._is_name = True
            return
        self.key += (part,)

    def _step_to_tag(self, context: dict[str, Any]) -> None:
        """Go to the key that says which of several kinds a table is of."""
        kinds = get_args(_opened(self._expected)[0])
        name = context["discriminator"].strip("'")
        self._expected = Annotated[str, one_of([t for kind in kinds for t in _tags(kind, name)])]
        self._input = context.get("tag")
        self.key += (name,)

    @property
    def is_misshapen(self) -> bool:
        """Whether a field or a type is at fault, and not a value."""
        kind = self._details["type"]
        return kind in _MISSHAPEN or kind.endswith(("_type", "_not_found"))

    def text(self, with_value: bool = True) -> str:
        """What is wrong, and what to write instead."""
        kind, message = self._details["type"], self._details["msg"]
        if kind in ("fault", "value_error"):
            return message.removeprefix("Value error, ")
        if kind == "json_invalid":
            return "this is not JSON"
        if kind == "extra_forbidden":
            return _unknown(self.key[-1], list(_fields(_opened(self._expected)[0])))
        words = (
            message if kind == "form" else _words(self._names if self._is_name else self._expected)
        )
        if self._is_name:
            return f"this name must be {words}"
        if words == "a table" and self.key:
            words += f": [{dotted(self.key)}]"
        if kind == "missing" or self._input is None:
            return f"missing; it must be {words}"
        return f"must be {words}, not {shown(self._input)}" if with_value else f"must be {words}"

    def __str__(self) -> str:
        return f"{dotted(self.key)}: {self.text()}" if self.key else self.text()


def faults(error: ValidationError, model: type[BaseModel]) -> Iterator[Fault]:
    """Everything that is wrong with what was read as a ``model``."""
    for details in error.errors(include_url=False):
        if not _follows(details):
            yield Fault(details, model)


def _follows(details: ErrorDetails) -> bool:
    """Whether pydantic reports something only because of another fault."""
    if details["type"] == "too_short":  # what is at fault is not counted
        return bool(len(details["input"]) >= details["ctx"]["min_length"])
    return details["type"] == "default_factory_not_called"


def fault(text: str) -> PydanticCustomError:
    """To raise in a validator: what is wrong with its value, in full."""
    return PydanticCustomError("fault", "{text}", {"text": text})


def located(*wrong: tuple[Key, str]) -> ValidationError:
    """To raise in a validator: what is wrong with keys below its value."""
    details = [InitErrorDetails(type=fault(text), loc=key, input=None) for key, text in wrong]
    return ValidationError.from_exception_data("", details)


def dotted(key: Key) -> str:
    """A key as TOML writes it, its parts short."""
    return ".".join(part if re.fullmatch(_BARE, part) else shown(part) for part in key)


def shown(value: Any) -> str:
    """A value as a person may recognise it: short, and without a URL's password."""
    if type(value) in _KINDS:
        return f"a {_KINDS[type(value)]}" if value else f"an empty {_KINDS[type(value)]}"
    if isinstance(value, bool):
        return "a truth value"
    if isinstance(value, int) and abs(value) > 10**18:
        return "so large a number"
    text = str(value)
    if isinstance(value, str) and "://" in value:
        text = f"{value.partition('://')[0]}://..."
    short = text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
    return repr(short) if isinstance(value, str) else short


def _unknown(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    known = f"do you mean {near[0]}?" if near else f"the keys here are {', '.join(names)}"
    return f"unknown; {known}"


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """A model's fields by the names that are read."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _tags(kind: Any, name: str = "") -> list[str]:
    """The values of a model's literal fields, or of that one: what tells it from others."""
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return []
    fields = [field for key, field in _fields(kind).items() if name in ("", key)]
    literals = [field.annotation for field in fields if get_origin(field.annotation) is Literal]
    return [tag for literal in literals for tag in get_args(literal)]


def _opened(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    """A type without ``None`` and ``Annotated``, and what it was annotated with."""
    marks: tuple[Any, ...] = ()
    while True:
        inner = get_args(kind)
        if get_origin(kind) is Annotated:
            kind = inner[0]
            for mark in inner[1:]:
                marks += tuple(mark.metadata) if isinstance(mark, FieldInfo) else (mark,)
        elif get_origin(kind) in (Union, UnionType) and NoneType in inner:
            kind = Union[tuple(part for part in inner if part is not NoneType)]  # noqa: UP007
        else:
            return kind, marks


def _words(expected: Any) -> str:
    """What a value of a type must be."""
    kind, marks = _opened(expected)
    for mark in marks:
        if isinstance(mark, Form):
            return mark.words
    if kind in (int, float):
        return " ".join(["a whole number" if kind is int else "a number", *_bounds(marks)])
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(repr, get_args(kind)))}"
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(dict.fromkeys(map(_words, get_args(kind))))
    if get_origin(kind) is tuple:
        some = " of at least one" if any(getattr(mark, "min_length", 0) for mark in marks) else ""
        return f"a list{some}, each {_words(get_args(kind)[0])}"
    if kind is str:
        longest = [mark.max_length for mark in marks if getattr(mark, "max_length", None)]
        return f"a text of at most {longest[0]:,} characters" if longest else "a text"
    return "true or false" if kind is bool else "a table"


def _bounds(marks: tuple[Any, ...]) -> list[str]:
    words = {"ge": "from", "gt": "above", "le": "to", "lt": "below"}
    return [
        f"{word} {getattr(mark, name):,.10g}"
        for name, word in words.items()
        for mark in marks
        if getattr(mark, name, None) is not None
    ]
