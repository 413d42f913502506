"""A plan crosses the network unchanged, and what is wrong with one is named."""

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpbitfit.engine.optimizers import BETA_FIRST, BETA_SECOND, OptimizerState
from dpbitfit.errors import InputError, ProtocolError
from dpbitfit.plan import Plan
from dpbitfit.protocol.codec import CODECS

from ..support.plans import phase, plan

PLAN = plan()


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of every field in a JSON tree."""
    parts = value.items() if isinstance(value, dict) else enumerate(value)
    for name, part in parts:
        if isinstance(name, str):
            yield (*place, name)
        if isinstance(part, dict | list):
            yield from places(part, (*place, name))


PLACES = list(places(json.loads(PLAN.encode())))


def damaged(place: tuple[Any, ...], change: Callable[[Any, Any], None]) -> bytes:
    """The plan's JSON after ``change`` was done to the field at ``place``."""
    tree = inner = json.loads(PLAN.encode())
    for name in place[:-1]:
        inner = inner[name]
    change(inner, place[-1])
    return json.dumps(tree, sort_keys=True, separators=(",", ":")).encode()


def put(value: Any) -> Callable[[Any, Any], None]:
    return lambda inner, name: inner.__setitem__(name, value)


def test_a_plan_survives_the_network() -> None:
    again = Plan.decode(PLAN.encode())
    assert again == PLAN
    assert again.digest == PLAN.digest
    assert again.encode() == PLAN.encode()
    ((mechanism, steps),) = again.counts
    assert (mechanism.noise_multiplier, mechanism.sampling_rate, steps) == (1.0, 0.1, 12)


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_every_field_is_required_and_named_where_it_is_wrong(place: tuple[Any, ...]) -> None:
    if place[0] != "task" or place[-1] in ("task", "name"):
        with pytest.raises(ProtocolError, match=str(place[-1])):
            Plan.decode(damaged(place, lambda inner, name: inner.pop(name)))
    with pytest.raises((ProtocolError, InputError), match=str(place[-1])):
        Plan.decode(damaged(place, put([[1]])))


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_no_level_takes_a_field_that_it_does_not_know(place: tuple[Any, ...]) -> None:
    if place[:2] == ("task", "settings"):
        return  # a task's own, which it checks
    with pytest.raises(ProtocolError, match="surprise"):
        Plan.decode(damaged((*place[:-1], "surprise"), put(1)))


@pytest.mark.parametrize(
    "changes",
    [
        {"layout_digest": "2" * 64},
        {"model_digest": "2" * 64},
        {"noise_multiplier": 1.5},
        {"sampling_rate": 0.2},
        {"rounds": 4},
        {"steps_per_round": 5},
        {"delta": 1e-6},
        {"clipping": "abadi"},
        {"clipping_norm": 2.0},
        {"noise": "fast-insecure"},
        {"optimizer": "sgd"},
        {"learning_rate": 1e-3},
        {"unit": "patient"},
        {"dataset": "letters"},
        {"model": "other"},
        {"task": "other"},
        {"head": "trained"},
        {"logit_scale": 10.0},
        {"max_length": 64},
        {"metrics": "accuracy", "evaluations": 1},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_every_field_is_in_the_digest(changes: dict[str, Any]) -> None:
    other = plan(**changes)
    assert other.digest != PLAN.digest
    assert Plan.decode(other.encode()) == other


@pytest.mark.parametrize(
    "spelling",
    [
        lambda data: data + b" ",
        lambda data: data.replace(b'"rounds":3', b'"rounds": 3'),
        lambda data: data.replace(b'"norm":1.0', b'"norm":1'),
        lambda data: data.replace(b'"norm":1.0', b'"norm":1.00'),
        lambda data: data.replace(b'"unit":"record"', b'"unit":"\\u0072ecord"'),
        lambda data: data.replace(b'"rounds":3', b'"rounds":2,"rounds":3'),
        lambda data: b"[" + data + b"]",
        lambda data: data[:-1],
        lambda data: b"",
        lambda data: b"\xff" + data,
        lambda data: b"[" * 10_000,
        lambda data: data.replace(b'"rounds":3', b'"rounds":3e0'),
        lambda data: data.replace(b'"norm":1.0', b'"norm":NaN'),
    ],
)
def test_there_is_one_spelling(spelling: Callable[[bytes], bytes]) -> None:
    """A plan has one digest: that of the bytes that were signed."""
    changed = spelling(PLAN.encode())
    assert changed != PLAN.encode()
    with pytest.raises((ProtocolError, InputError)):
        Plan.decode(changed)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("noise_multiplier", 0.0),
        ("noise_multiplier", math.nan),
        ("sampling_rate", 1.5),
        ("sampling_rate", 0.0),
        ("delta", 1.0),
        ("rounds", 0),
        ("steps_per_round", -1),
        ("clipping_norm", math.inf),
        ("learning_rate", -1.0),
        ("clipping", "none"),
        ("noise", "none"),
        ("optimizer", "lbfgs"),
        ("evaluations", 4),
    ],
)
def test_bad_values_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(InputError, match=name.replace("_", ".")):
        plan(**{name: value})


def test_a_codec_is_one_that_is_built_in() -> None:
    assert PLAN.updates is CODECS["float32"]
    for name in ("float64", "dpbitfit.protocol.codec:Float32"):
        with pytest.raises(InputError, match="codec: must be one of 'float32'"):
            Plan.decode(damaged(("codec",), put(name)))


def test_rounds_are_those_of_their_phases() -> None:
    first, second = phase(rounds=2, steps_per_round=1), phase(rounds=1, noise_multiplier=2.0)
    both = PLAN.changed(phases=(first, second))
    assert [both.phase(number) for number in (1, 2, 3)] == [first, first, second]
    assert both.rounds == 3
    assert dict(both.counts) == {first.mechanism: 2, second.mechanism: 4}
    for number in (0, 4, -1):
        with pytest.raises(ProtocolError, match="round"):
            both.phase(number)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_the_largest_update_is_finite_and_grows_with_the_steps(optimizer: str) -> None:
    short = phase(optimizer=optimizer)
    longer = phase(short, steps_per_round=2 * short.steps_per_round)
    assert 0 < short.largest_update(100, 50) < math.inf
    assert longer.largest_update(100, 50) == pytest.approx(2 * short.largest_update(100, 50))


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300), st.booleans())
def test_no_gradients_take_adam_as_far_as_the_largest_distance(
    gradients: list[float], worst: bool
) -> None:
    """Nor those that take it furthest: each the more, as the moments forget at different rates."""
    if worst:
        gradients = [(BETA_SECOND / BETA_FIRST) ** k for k in range(len(gradients))]
    trained = phase(rounds=len(gradients), steps_per_round=1, learning_rate=0.5)
    values, state = np.zeros(1), OptimizerState()
    for gradient in gradients:
        values, state = trained.optimizer.descend(
            values, np.array([gradient]), state, trained.steps
        )
    assert abs(values[0]) < trained.largest_distance(50)
    assert trained.largest_distance(50) == 10 * len(gradients) * 0.5


def test_the_largest_distance_of_sgd_is_that_of_noised_mean_gradients() -> None:
    trained = plan(optimizer="sgd", learning_rate=0.5, clipping_norm=2.0)
    step = 0.5 * 2.0 * (1 + 1.0 / (0.1 * 50))  # rate, norm, noise of a mean over 5 units
    assert trained.largest_distance(50) == pytest.approx(10 * 12 * step)
