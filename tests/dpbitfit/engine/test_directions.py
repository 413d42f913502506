"""Directions are the same numbers everywhere: all who know public values compute them."""

import hashlib

import numpy as np
import pytest

from dpbitfit.engine.directions import Directions

from ...support import plans

FIXED = Directions(bytes(range(32)))
DIGESTS = {
    (0, 0, 100): "90b07f6da4dc448dc888ca323dc086420d0f6396585c0307484d7a6c16419c42",
    (3, 63, 23_424): "751c8ab53f845809c5fd5f3707471d54195d25afe7ceeeb1d897a9ae4e3c787d",
    (10**6, 1023, 17): "b9e30b52dd7a2daf653730867cb8b082ffaa11e60509918417a520df1612f333",
}


def sha256(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


@pytest.mark.parametrize(("place", "digest"), DIGESTS.items())
def test_a_direction_is_the_same_on_every_machine(place: tuple[int, int, int], digest: str) -> None:
    assert sha256(FIXED.signs(*place)) == digest


def test_what_a_message_stands_for_is_the_same_on_every_machine() -> None:
    gradient = FIXED.gradient(3, np.linspace(-1, 1, 64), 23_424)
    assert sha256(gradient) == "d25d3074e9c9dd0e49513331459b7f692e5a59a7eda60d6ced7726958f2b0686"


def test_values_are_signs_with_equal_odds_and_no_two_directions_are_alike() -> None:
    size = 10_000
    rows = np.array([FIXED.signs(step, number, size) for step in range(5) for number in range(5)])
    assert set(rows.reshape(-1)) == {-1, 1}
    products = rows.astype(float) @ rows.T / size
    assert products == pytest.approx(np.eye(25), abs=5 / size**0.5)
    assert np.abs(rows.mean(axis=1)).max() < 5 / size**0.5


def test_a_shorter_direction_is_the_beginning_of_a_longer_one() -> None:
    assert (FIXED.signs(1, 2, 70) == FIXED.signs(1, 2, 1000)[:70]).all()


def test_a_row_of_exact_derivatives_stands_for_the_gradient_on_average() -> None:
    gradient, count = np.random.default_rng(0).standard_normal(30), 4000
    signs = [FIXED.signs(0, number, 30) for number in range(count)]
    row = np.array(signs) @ gradient / count**0.5
    bound = 5 * np.linalg.norm(gradient) / count**0.5
    assert FIXED.gradient(0, row, 30) == pytest.approx(gradient, abs=bound)


def test_each_run_site_plan_and_phase_has_directions_of_its_own() -> None:
    plan, other = plans.plan(), plans.plan(noise_multiplier=2.0)
    seeds = {
        plan.directions("run", "site", 0).seed,
        plan.directions("other run", "site", 0).seed,
        plan.directions("run", "other site", 0).seed,
        plan.directions("run", "site", 1).seed,
        other.directions("run", "site", 0).seed,
    }
    assert len(seeds) == 5
    assert plan.directions("run", "site", 0) == plan.directions("run", "site", 0)
