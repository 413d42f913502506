"""Phases of the head: what the coordinator makes of pooled sums, and what is trained where."""

import numpy as np
import pytest

from dpbitfit.engine.linear_head import LinearHead
from dpbitfit.engine.noise import DiscreteGaussianNoise
from dpbitfit.engine.optimizers import OptimizerState, Sgd
from dpbitfit.errors import InputError
from dpbitfit.phases import BiasPhase, ClassSums, HeadDescent

NOISE = DiscreteGaussianNoise(multiplier=2.0)
HEAD = LinearHead(slice(4, 10), slice(10, 12), 2, 3, 20.0)
NAMES = np.array([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])


def new_head(phase: ClassSums, total: np.ndarray, sites: int = 4) -> np.ndarray:
    head, _ = phase.step(NAMES, total, sites, 100, OptimizerState())
    return head


def test_a_class_that_is_hardly_there_keeps_its_name() -> None:
    head = new_head(ClassSums(noise=NOISE), np.zeros((2, 3)))
    assert head == pytest.approx(np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))


def test_the_name_counts_as_much_as_the_sums_noise() -> None:
    total = np.array([[0.0, 0.0, 40.0], [0.0, 0.0, 40.0]])
    prior = 0.5 * 2.0 * np.sqrt(4 * 3)
    first = np.array([prior, 0.0, 40.0])
    assert new_head(ClassSums(noise=NOISE), total)[0] == pytest.approx(
        first / np.linalg.norm(first)
    )


def test_how_many_records_a_class_has_does_not_stay_in_its_row() -> None:
    total = np.array([[3.0, 4.0, 0.0], [30.0, 40.0, 0.0]])
    head = new_head(ClassSums(noise=NOISE, prior=0.0), total)
    assert head == pytest.approx(np.array([[0.6, 0.8, 0.0]] * 2))


def test_a_step_of_descent_divides_by_what_is_declared() -> None:
    phase = HeadDescent(noise=NOISE, rounds=4, optimizer=Sgd(learning_rate=8.0))
    total = np.arange(6.0).reshape(2, 3)
    head, state = phase.step(NAMES, total, 3, 100, OptimizerState())
    assert head == pytest.approx(NAMES - 8.0 * total / 100)
    head, _ = phase.step(NAMES, total, 3, 100, state)  # the rate falls linearly to 0
    assert head == pytest.approx(NAMES - 6.0 * total / 100)


@pytest.mark.parametrize(
    ("phase", "places"),
    [
        (ClassSums(noise=NOISE), range(4, 10)),
        (HeadDescent(noise=NOISE), range(4, 10)),
        (BiasPhase(noise=NOISE, trains="biases"), [*range(4), 10, 11, 12, 13]),
        (BiasPhase(noise=NOISE), range(14)),
    ],
)
def test_what_a_phase_trains(phase: ClassSums | HeadDescent | BiasPhase, places: list[int]) -> None:
    assert phase.places(14, HEAD).tolist() == list(places)


def test_full_batches_are_accounted_at_rate_one() -> None:
    for phase in (ClassSums(noise=NOISE), HeadDescent(noise=NOISE, rounds=7)):
        ((mechanism, steps),) = phase.counts
        assert (mechanism.noise_multiplier, mechanism.sampling_rate) == (2.0, 1.0)
        assert steps == phase.rounds


@pytest.mark.parametrize(
    "change", [{"rounds": 2}, {"sampling_rate": 0.5}, {"steps_per_round": 2}, {"trains": "all"}]
)
def test_class_sums_are_one_full_batch(change: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(change))):
        ClassSums.checked(noise=NOISE, **change)


def test_an_honest_sum_is_within_its_bound() -> None:
    phase = ClassSums(noise=NOISE)
    units, size = 90, 2 * 3
    assert phase.largest_update(size, 100) > units + 2.0 * np.sqrt(size) * 4
