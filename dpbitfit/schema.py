"""Declared once: the base of plan, settings, messages and policy, and what follows from it.

A ``Part`` is a frozen pydantic model that knows its fields' types, bounds, defaults and
help. Options of a command line and keys of a run configuration are flat; ``options``
lists those that fill a tree of parts, and ``build`` fills it.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from dpbitfit.errors import InputError
from dpbitfit.faults import faults, shown
from dpbitfit.validate import one_of

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:  # it has no public name
    ModelMetaclass = type(BaseModel)

Scalar = str | int | float | bool
P = TypeVar("P", bound="Part")


def canonical(values: Any) -> bytes:
    """Values as canonical JSON: sorted keys, no spaces."""
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode()


class _Checked(ModelMetaclass):
    """Whose classes, when they are called, raise InputError: pydantic's is for what it reads."""

    def __call__(cls, *args: Any, **values: Any) -> Any:
        try:
            return super().__call__(*args, **values)
        except ValidationError as error:
            fault = next(faults(error, cls))  # type: ignore[arg-type]
            raise InputError(str(fault)) from error


class Part(BaseModel, metaclass=_Checked):
    """A frozen record whose fields are exactly those declared, of exactly those types.

    To make one of other values raises InputError, naming the first field that is not usable.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        ser_json_inf_nan="constants",
        hide_input_in_errors=True,
    )

    @classmethod
    def checked(cls, **values: Any) -> Self:
        """Make one of values whose types nothing has seen yet; raises as the class itself does."""
        return cls(**values)

    def encode(self) -> bytes:
        """Its canonical JSON."""
        return canonical(self.model_dump(mode="json"))

    def changed(self, **values: Any) -> Self:
        """A copy with some fields changed, and all of them checked, as ``checked``."""
        own = {name: getattr(self, name) for name in type(self).model_fields}
        return self.checked(**{**own, **values})


@dataclass(frozen=True)
class Key:
    """The option's name of a field, where the field's own would say too little."""

    name: str


@dataclass(frozen=True)
class Option:
    """One flat key: its type, what it is without being given, and its help."""

    key: str
    kind: type
    default: Any
    help: str
    choices: tuple[str, ...] = ()


def options(part: type[Part]) -> Iterator[Option]:
    """Every flat key that fills a part, and the parts in it; each key once."""
    seen: set[str] = set()
    for option in _options(part):
        if option.key not in seen:
            seen.add(option.key)
            yield option


def build(part: type[P], values: Mapping[str, Scalar], **given: Any) -> P:
    """A part from the flat ``values`` that name its fields; ``given`` fields come as they are.

    Raises InputError, naming the key that is not usable.
    """
    fields = dict(given)
    for name, info in part.model_fields.items():
        if name in given:
            continue
        variants = _variants(info)
        if variants:
            chosen = _choose(key_of(name, info), variants, values)
            fields[name] = build(chosen, values)
        elif (key := key_of(name, info)) in values and not _is_fixed(info):
            fields[name] = values[key]
    try:
        return part.model_validate(fields)
    except ValidationError as error:
        fault = next(faults(error, part))
        name, *below = fault.key or ("",)
        if field := part.model_fields.get(name):
            fault.key = (key_of(name, field), *below)
        raise InputError(str(fault)) from error


def variants_of(union: Any) -> dict[str, type[Part]]:
    """The parts of an annotated union, by what tells them apart."""
    return _variants(FieldInfo.from_annotation(union))


def key_of(name: str, info: FieldInfo) -> str:
    """The flat key of a field."""
    own = next((note.name for note in info.metadata if isinstance(note, Key)), name)
    return own.replace("_", "-")


def option_of(name: str, info: FieldInfo) -> Option:
    """The option of a field that holds a plain value."""
    kind, choices = info.annotation, ()
    if get_origin(kind) is Literal:
        kind, choices = str, get_args(kind)
    assert isinstance(kind, type), f"{name}: {kind}"
    default = None if info.is_required() else info.get_default(call_default_factory=True)
    return Option(key_of(name, info), kind, default, info.description or "", choices)


def _options(part: type[Part]) -> Iterator[Option]:
    for name, info in part.model_fields.items():
        if variants := _variants(info):
            if info.discriminator:
                # An alternative without a default is the first.
                own = None if info.is_required() else info.get_default()
                default = getattr(own, str(info.discriminator), next(iter(variants)))
                help_text = info.description or ""
                yield Option(key_of(name, info), str, default, help_text, tuple(variants))
            for variant in variants.values():
                yield from _options(variant)
        elif not _is_fixed(info):
            yield option_of(name, info)


def _variants(info: FieldInfo) -> dict[str, type[Part]]:
    """The parts that a field may hold, by what tells them apart; none for a plain value."""
    kind = info.annotation
    members = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    parts = [part for part in members if isinstance(part, type) and issubclass(part, Part)]
    tag = str(info.discriminator or "")
    return {get_args(part.model_fields[tag].annotation)[0] if tag else "": part for part in parts}


def _is_fixed(info: FieldInfo) -> bool:
    """Whether a field can have one value only."""
    return get_origin(info.annotation) is Literal and len(get_args(info.annotation)) == 1


def _choose(
    key: str, variants: Mapping[str, type[Part]], values: Mapping[str, Scalar]
) -> type[Part]:
    chosen = values.get(key, next(iter(variants))) if len(variants) > 1 else next(iter(variants))
    if chosen not in variants:
        raise InputError(f"{key}: must be {one_of(variants).words}, not {shown(chosen)}")
    return variants[str(chosen)]
