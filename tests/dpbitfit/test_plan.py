"""A plan crosses the network unchanged, and bad numbers are named."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpbitfit.engine.training import BETA_FIRST, BETA_SECOND, OptimizerState, _descend
from dpbitfit.errors import InputError, ProtocolError
from dpbitfit.plan import Plan

PLAN = Plan(
    layout_digest="0" * 64,
    model_digest="1" * 64,
    noise_multiplier=1.0,
    sampling_rate=0.1,
    rounds=3,
    steps_per_round=4,
    delta=1e-5,
)


def test_a_plan_survives_the_network() -> None:
    assert Plan.from_config(PLAN.to_config()) == PLAN
    assert Plan.from_config(PLAN.to_config()).digest == PLAN.digest
    assert PLAN.steps == 12


@pytest.mark.parametrize("name", list(PLAN.to_config()))
def test_every_field_is_in_the_digest_and_required(name: str) -> None:
    value = getattr(PLAN, name)
    other = value + "x" if isinstance(value, str) else value * 2 + 1
    assert replace(PLAN, **{name: other}).digest != PLAN.digest
    config = PLAN.to_config()
    del config[name]
    with pytest.raises(ProtocolError, match=name):
        Plan.from_config(config)
    with pytest.raises(ProtocolError, match=name):
        Plan.from_config({**PLAN.to_config(), name: [1]})


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
    ],
)
def test_bad_numbers_are_refused_by_name(name: str, value: object) -> None:
    PLAN.check()
    with pytest.raises(InputError, match=name):
        replace(PLAN, **{name: value}).check()


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_the_largest_update_is_finite_and_grows_with_the_steps(optimizer: str) -> None:
    plan = replace(PLAN, optimizer=optimizer)
    longer = replace(plan, steps_per_round=2 * plan.steps_per_round)
    assert 0 < plan.largest_update(100, 50) < math.inf
    assert longer.largest_update(100, 50) == pytest.approx(2 * plan.largest_update(100, 50))


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300), st.booleans())
def test_no_gradients_take_adam_as_far_as_the_largest_distance(
    gradients: list[float], worst: bool
) -> None:
    """Nor those that take it furthest: each the more, as the moments forget at different rates."""
    if worst:
        gradients = [(BETA_SECOND / BETA_FIRST) ** k for k in range(len(gradients))]
    plan = replace(PLAN, rounds=len(gradients), steps_per_round=1, learning_rate=0.5)
    values, state = np.zeros(1), OptimizerState()
    for gradient in gradients:
        values, state = _descend(values, np.array([gradient]), plan, state)
    assert abs(values[0]) < plan.largest_distance(50)
    assert plan.largest_distance(50) == 10 * len(gradients) * 0.5


def test_the_largest_distance_of_sgd_is_that_of_noised_mean_gradients() -> None:
    plan = replace(PLAN, optimizer="sgd", learning_rate=0.5, clipping_norm=2.0)
    step = 0.5 * 2.0 * (1 + 1.0 / (0.1 * 50))  # rate, norm, noise of a mean over 5 units
    assert plan.largest_distance(50) == pytest.approx(10 * 12 * step)
