"""A fault names its key, what was wrong, and what to write instead."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from dpbitfit.faults import dotted, faults, shown
from dpbitfit.validate import NoiseMultiplier, PlainName, Rounds, one_of


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")
    noise: NoiseMultiplier
    kind: Literal["flat", "automatic"] = "flat"
    often: Rounds | None = None


class Round(BaseModel):
    model_config = ConfigDict(extra="forbid")
    shape: Literal["round"] = "round"
    radius: NoiseMultiplier


class Square(BaseModel):
    shape: Literal["square"] = "square"


class Whole(BaseModel):
    model_config = ConfigDict(extra="forbid", alias_generator=lambda name: name.replace("_", "-"))
    first_part: Part
    parts: tuple[Part, ...] = ()
    by_name: Mapping[PlainName, Part] = {}
    heads: Annotated[tuple[Annotated[str, one_of(["a", "b"])], ...], Field(min_length=1)] = ("a",)
    text: str = Field(default=3, validate_default=True)
    resume: Annotated[bool, Field(strict=True)] = False
    either: int | str | None = None
    note: Annotated[str, Field(max_length=2)] = ""
    shapes: Annotated[
        tuple[Annotated[Round | Square, Field(discriminator="shape")], ...], Field(min_length=1)
    ] = (Square(),)

    @field_validator("note")
    @classmethod
    def _not_no(cls, note: str) -> str:
        if note == "no":
            raise ValueError("must not be no")
        return note


GOOD = {"first-part": {"noise": 1}, "text": "here"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"first-part": {}},
            "first-part.noise: missing; it must be a number from 0.01 to 1,000,000",
        ),
        (
            {"first-part": {"noise": 0}},
            "first-part.noise: must be a number from 0.01 to 1,000,000, not 0",
        ),
        (
            {"first-part": {"noise": None}},
            "first-part.noise: missing; it must be a number from 0.01 to 1,000,000",
        ),
        (
            {"first-part": {"noise": 1, "kind": "other"}},
            "first-part.kind: must be one of 'flat', 'automatic', not 'other'",
        ),
        (
            {"first-part": {"noise": 1, "often": 1.5}},
            "first-part.often: must be a whole number from 1 to 1,000,000, not 1.5",
        ),
        ({"first-part": 3}, "first-part: must be a table: [first-part], not 3"),
        ({"parts": [{"noise": 1, "nois": 2}]}, "parts.nois: unknown; do you mean noise?"),
        ({"x" * 5000: 2}, f"'{'x' * 57}...': unknown; the keys here are"),
        ({"first_part": {"noise": 1}}, "first_part: unknown; do you mean first-part?"),
        ({"by-name": {"a": {"noise": 1, "how_often": 1}}}, "by-name.a.how_often: unknown; do you"),
        ({"parts": 3}, "parts: must be a list, each a table, not 3"),
        ({"far": 2}, "far: unknown; the keys here are first-part, parts, by-name, heads"),
        ({"by-name": {"a/b": {"noise": 1}}}, "by-name.'a/b': this name must be 1 to 180 printable"),
        ({"by-name": {"a": 3}}, "by-name.a: must be a table: [by-name.a], not 3"),
        ({"by-name": {"a": {"noise": "x"}}}, "by-name.a.noise: must be a number from"),
        ({"by-name": {"[key]": {"nois": 1, "noise": 1}}}, "by-name.'[key]'.nois: unknown; do you"),
        (
            {"heads": []},
            "heads: must be a list of at least one, each one of 'a', 'b', not an empty list",
        ),
        ({"heads": ["a", "c"]}, "heads: must be one of 'a', 'b', not 'c'"),
        ({"text": ...}, "text: must be a text, not 3"),
        ({"either": []}, "either: must be a whole number or a text, not an empty list"),
        ({"note": "no"}, "note: must not be no"),
        ({"note": "long"}, "note: must be a text of at most 2 characters, not 'long'"),
        (
            {"shapes": [{"shape": "round", "radius": 0}]},
            "shapes.radius: must be a number from 0.01 to 1,000,000, not 0",
        ),
        (
            {"shapes": [{"shape": "flat"}]},
            "shapes.shape: must be one of 'round', 'square', not 'flat'",
        ),
        ({"shapes": [{}]}, "shapes.shape: missing; it must be one of 'round', 'square'"),
        ({"resume": "yes"}, "resume: must be true or false, not 'yes'"),
    ],
)
def test_a_fault_says_what_to_write(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Whole.model_validate({k: v for k, v in {**GOOD, **values}.items() if v is not ...})
    texts = {str(fault) for fault in faults(caught.value, Whole)}
    assert len(texts) == 1
    assert texts.pop().startswith(message)


def test_a_fault_can_leave_out_the_value() -> None:
    with pytest.raises(ValidationError) as caught:
        Whole.model_validate({**GOOD, "heads": ["secret"], "first-part": {"noise": "secret"}})
    texts = [fault.text(with_value=False) for fault in faults(caught.value, Whole)]
    assert texts == ["must be a number from 0.01 to 1,000,000", "must be one of 'a', 'b'"]


def test_what_is_no_json_is_called_so() -> None:
    for text in (b"{", b"[" * 100_000, b"\xff" * 100_000):
        with pytest.raises(ValidationError) as caught:
            Whole.model_validate_json(text)
        assert [str(fault) for fault in faults(caught.value, Whole)] == ["this is not JSON"]


def test_values_are_shown_short_and_without_secrets() -> None:
    assert shown("postgresql://dp:secret@host/ledger") == "'postgresql://...'"
    assert len(shown("x" * 1000)) < 70
    assert shown(10**5000) == "so large a number"
    assert len(shown(b"x" * 1000)) < 70
    assert shown((1, 2)) == "a list"
    assert shown({"a": "secret"}) == "a table"
    assert shown([]) == "an empty list"
    assert dotted(("a-b", "c d", "é")) == "a-b.'c d'.'é'"
