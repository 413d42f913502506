"""A head's sums: what one unit moves them by, to the bit, and that they are what they should be."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dpbitfit.engine.linear_head import (
    COEFFICIENT_BITS,
    FEATURE_BITS,
    GRID,
    LinearHead,
    on_grid,
    one_hot,
    outer_sum,
    residuals,
)
from dpbitfit.engine.noise import DiscreteGaussianNoise
from dpbitfit.errors import InputError
from dpbitfit.phases import HeadDescent

CLASSES, WIDTH, RECORDS = 5, 12, 40
HEAD = LinearHead(slice(3, 3 + CLASSES * WIDTH), slice(63, 68), CLASSES, WIDTH, 20.0)


def records(seed: int, count: int = RECORDS) -> tuple[np.ndarray, np.ndarray]:
    """Features of norm 1 on their grid, and classes."""
    dice = np.random.default_rng(seed)
    features = dice.normal(size=(count, WIDTH)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return on_grid(features), dice.integers(0, CLASSES, count)


def vector(seed: int, scale: float = 0.3) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=70) * scale).astype(np.float32)


def units_of(sizes: list[int]) -> list[np.ndarray]:
    """Consecutive records as units of these sizes."""
    ends = np.cumsum(sizes)
    return [np.arange(end - size, end) for end, size in zip(ends, sizes, strict=True)]


def coefficients(kind: str, seed: int, features: np.ndarray, classes: np.ndarray) -> np.ndarray:
    if kind == "class-sums":
        return one_hot(classes, CLASSES)
    return residuals(HEAD, vector(seed, 10.0), features, classes)


@pytest.mark.parametrize("kind", ["class-sums", "head"])
@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=12),
    norm=st.floats(0.05, 3.0),
    seed=st.integers(0, 10**6),
    data=st.data(),
)
def test_a_unit_moves_the_sum_by_its_own_clipped_sum(
    kind: str, sizes: list[int], norm: float, seed: int, data: st.DataObject
) -> None:
    """At most the clipping norm, in Frobenius norm; and the same in any company, to the bit."""
    features, classes = records(seed, sum(sizes))
    chosen = coefficients(kind, seed, features, classes)
    units = units_of(sizes)
    left_out = data.draw(st.integers(0, len(units) - 1))
    others = [unit for number, unit in enumerate(units) if number != left_out]
    whole = outer_sum(chosen, features, units, norm)
    moved = whole - outer_sum(chosen, features, others, norm)
    assert np.linalg.norm(moved.astype(np.float64)) * GRID <= norm
    unit = units[left_out]
    alone = coefficients(kind, seed, features[unit], classes[unit])
    own = outer_sum(alone, features[unit], [np.arange(len(unit))], norm)
    assert (moved == own).all()


def test_a_unit_of_many_like_records_moves_the_sum_by_the_clipping_norm_and_no_more() -> None:
    features, classes = np.repeat(records(0, 1)[0], 50, axis=0), np.zeros(50, np.int64)
    moved = outer_sum(one_hot(classes, CLASSES), features, [np.arange(50)], 1.0)
    assert np.linalg.norm(moved) * GRID == pytest.approx(1.0, abs=1e-3)


@given(seed=st.integers(0, 10**6), scale=st.sampled_from([0.0, 0.1, 1.0, 1e3, 1e10]))
def test_a_records_residual_is_its_own_to_the_bit(seed: int, scale: float) -> None:
    features, classes = records(seed)
    own = vector(seed, scale)
    together = residuals(HEAD, own, features, classes)
    order = np.random.default_rng(seed).permutation(RECORDS)
    assert (residuals(HEAD, own, features[order], classes[order]) == together[order]).all()
    for record in range(0, RECORDS, 7):
        alone = slice(record, record + 1)
        assert (residuals(HEAD, own, features[alone], classes[alone]) == together[alone]).all()


def test_no_kernels_rounding_is_seen_where_weights_magnify_it() -> None:
    """Rows alike and huge in half of the features, small and their own in the rest."""
    dice, count, classes, width = np.random.default_rng(0), 4000, 40, 384
    head = LinearHead(slice(0, classes * width), None, classes, width, 20.0)
    rows = np.full((classes, width), 1e7) * dice.normal(size=width)
    rows[:, ::2] = 0.3 * dice.normal(size=(classes, width // 2))
    own = rows.astype(np.float32).reshape(-1)
    features = dice.normal(size=(count, width)).astype(np.float32)
    features = on_grid(features / np.linalg.norm(features, axis=1, keepdims=True))
    labels = dice.integers(0, classes, count)
    together = residuals(head, own, features, labels)
    for record in range(count):
        alone = slice(record, record + 1)
        assert (residuals(head, own, features[alone], labels[alone]) == together[alone]).all()


def test_the_sum_of_outer_products_is_the_gradient_of_the_cross_entropy() -> None:
    """By torch, in the head's weight, over the scale of the logits; no record is clipped."""
    features, classes = records(1)
    own = vector(1)
    weight = torch.tensor(HEAD.weights(own), requires_grad=True)
    inputs = torch.tensor(np.ldexp(features.astype(np.float64), -FEATURE_BITS))
    logits = HEAD.scale * (inputs @ weight.T + torch.tensor(own[HEAD.bias].astype(np.float64)))
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(classes), reduction="sum")
    (gradient,) = torch.autograd.grad(loss, weight)
    result = residuals(HEAD, own, features, classes)
    total = outer_sum(result, features, units_of([1] * RECORDS), 2.0) * GRID
    wanted = (gradient / HEAD.scale).numpy().reshape(-1)
    assert total == pytest.approx(wanted, abs=RECORDS * 2.0 ** (2 - COEFFICIENT_BITS))


def test_class_sums_are_sums_of_the_features_of_a_class() -> None:
    features, classes = records(2)
    total = outer_sum(one_hot(classes, CLASSES), features, units_of([1] * RECORDS), 1.0)
    exact = np.ldexp(features.astype(np.float64), -FEATURE_BITS)
    wanted = np.array([exact[classes == label].sum(axis=0) for label in range(CLASSES)])
    assert (total * GRID).reshape(CLASSES, WIDTH) == pytest.approx(wanted, abs=1e-3)


@given(
    arrays.arrays(
        np.float32, (6, WIDTH), elements=st.floats(width=32, allow_nan=True, allow_infinity=True)
    )
)
def test_features_are_of_norm_one_at_most_and_nothing_where_they_are_not_finite(
    features: np.ndarray,
) -> None:
    with np.errstate(over="ignore"):
        whole = on_grid(features)
    assert (np.linalg.norm(whole.astype(np.float64), axis=1) <= math.ldexp(1, FEATURE_BITS)).all()
    finite = np.isfinite(features).all(axis=1)
    assert not whole[~finite].any()
    alone = on_grid(features[:1])
    assert (alone == whole[:1]).all()


def test_noise_of_a_sum_has_the_plans_deviation() -> None:
    source = DiscreteGaussianNoise(multiplier=1.5).source(2.0, GRID)
    total = np.zeros(20_000, np.int64)
    first, second = source.release(total), source.release(total)
    assert (first != second).mean() > 0.99
    assert first.std() == pytest.approx(3.0, rel=0.03)
    assert (np.ldexp(first, 32) % 1 == 0).all()  # on the grid of the sum


def test_a_grid_that_does_not_hold_the_noise_is_refused() -> None:
    with pytest.raises(InputError, match="finer grid"):
        DiscreteGaussianNoise(multiplier=1e-2).source(1e-3, GRID)
    with pytest.raises(InputError, match="does not fit"):  # its integers would overflow
        DiscreteGaussianNoise(multiplier=1e6).source(1e6, GRID)


@pytest.mark.parametrize("multiplier", [0.01, 1e6])
@pytest.mark.parametrize("norm", [0.05, 2.0])
def test_every_phase_of_the_head_that_a_plan_can_name_has_its_noise(
    norm: float, multiplier: float
) -> None:
    phase = HeadDescent(noise=DiscreteGaussianNoise(multiplier=multiplier), clipping_norm=norm)
    released = phase.source().release(np.zeros(5000, np.int64))
    assert released.std() == pytest.approx(norm * multiplier, rel=0.05)
    assert abs(released.mean()) < 0.1 * norm * multiplier


@pytest.mark.parametrize("norm", [0.04, 2.1, 1e6])
def test_a_norm_whose_noise_the_grid_may_not_hold_is_no_plans(norm: float) -> None:
    with pytest.raises(InputError, match="clipping_norm"):
        HeadDescent.checked(noise=DiscreteGaussianNoise(multiplier=1.0), clipping_norm=norm)
