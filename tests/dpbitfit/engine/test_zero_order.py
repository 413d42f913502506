"""DPZero's step: what its rows are, what is released of them, and what it never rests on."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.optimize import brentq
from torch import nn

from dpbitfit.accounting.composition import epsilon
from dpbitfit.accounting.mechanism import Mechanism
from dpbitfit.engine.biases import read_biases, select_biases
from dpbitfit.engine.clipping import AutomaticClipping
from dpbitfit.engine.directions import Directions
from dpbitfit.engine.losscheck import check_losses
from dpbitfit.engine.noise import DiscreteGaussian, DiscreteGaussianNoise
from dpbitfit.engine.optimizers import OptimizerState, Sgd
from dpbitfit.engine.training import clipped_sum, train_round
from dpbitfit.errors import InputError, ModelError
from dpbitfit.phases import DpZeroPhase
from dpbitfit.planner import gaussian_mu

from ...support.models import MODELS, RECORDS, build, losses
from .test_training import WIDTH, OneBias, Records, random_records

K, NORM, SIGMA = 6, 0.5, 2.0
PUBLIC = Directions(b"public seed".ljust(32))
PHASE = DpZeroPhase.checked(
    noise=DiscreteGaussianNoise(multiplier=SIGMA), rounds=1, steps_per_round=1, sampling_rate=0.5
)
PHASE = PHASE.changed(
    estimator=PHASE.estimator.changed(directions=K),
    clipping=PHASE.clipping.changed(norm=NORM),
    optimizer=Sgd(learning_rate=1.0),
)


def zeros(count: int) -> Records:
    """Records of one length whose losses do not change along any direction."""
    records = Records.of(torch.zeros(count, WIDTH))
    records.lengths[:] = 1
    return records


ZEROS = zeros(9)


def noised(multiplier: float, **changes: Any) -> DpZeroPhase:
    return PHASE.changed(noise=DiscreteGaussianNoise(multiplier=multiplier), **changes)


def signs(step: int = 0, size: int = WIDTH) -> np.ndarray:
    return np.array([PUBLIC.signs(step, number, size) for number in range(K)])


def run(
    records: Records, phase: DpZeroPhase = PHASE, declared_size: int = 100, step: int = 0
) -> np.ndarray:
    """What a round releases [steps * K]."""
    model = OneBias()
    layout = select_biases(model)
    start, state = read_biases(model, layout), OptimizerState(step)
    released, _ = train_round(
        model, layout, records, phase, declared_size, start, state, directions=PUBLIC
    )
    return released


def summed(records: Records, units: Sequence[int], phase: DpZeroPhase = PHASE) -> np.ndarray:
    """The clipped sum [K] of some units."""
    torch.manual_seed(0)  # the same biases each time
    model = OneBias()
    layout = select_biases(model)
    noise = phase.noise.source(phase.clipping.sensitivity)
    with phase.estimator.attach(model, layout, PUBLIC) as estimator:
        sample = np.array(units, np.int64)
        total = clipped_sum(model, estimator, records, sample, phase.clipping, noise, 20)
    return total * noise.step


def with_its_canonical_rows(records: Records) -> Records:
    """The same, in micro-batches of the size that the model's check found on this machine."""
    model = OneBias()
    losses_of = partial(records.losses, model)
    _, records.canonical_rows = check_losses(
        model, select_biases(model), losses_of, records.lengths
    )
    return records


def test_the_noise_does_not_come_from_the_directions_generator() -> None:
    """Who knows the public seed could subtract it: the same directions, twice, have other noise."""
    phase = PHASE.changed(steps_per_round=50)
    first, second = run(ZEROS, phase), run(ZEROS, phase)
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / len(first) ** 0.5
    wanted = 2**0.5 * SIGMA * NORM / (phase.sampling_rate * 100)
    assert (first - second).std() == pytest.approx(wanted, rel=5 / (2 * len(first)) ** 0.5)


@pytest.mark.parametrize("count", [1, 9, 200])
def test_zeros_come_back_as_noise_of_sigma_c_over_the_public_divisor(count: int) -> None:
    """Fails with noise for each direction by itself, and with a divisor that counts records."""
    phase = PHASE.changed(steps_per_round=50)
    released = run(zeros(count), phase, declared_size=30)
    wanted = SIGMA * NORM / (phase.sampling_rate * 30)
    assert released.std() == pytest.approx(wanted, rel=5 / (2 * released.size) ** 0.5)


def test_a_step_is_one_draw_of_noise_for_all_its_directions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draws = []

    class Counting(DiscreteGaussian):
        def release(self, total: np.ndarray) -> np.ndarray:
            draws.append(len(total))
            return super().release(total)

    monkeypatch.setattr(
        DiscreteGaussianNoise, "source", lambda noise, norm: Counting(norm, noise.multiplier)
    )
    run(random_records(40), PHASE.changed(steps_per_round=3))
    assert draws == [K, K, K]
    assert PHASE.changed(steps_per_round=3).counts == ((Mechanism(SIGMA, 0.5), 3),)


def test_rows_are_the_derivatives_along_the_directions_clipped_as_one_vector() -> None:
    records = random_records(12)
    gradients = records.directions.numpy().astype(np.float64)
    for record, gradient in enumerate(gradients):
        row = signs() @ gradient / K**0.5
        wanted = row * min(1, NORM / np.linalg.norm(row))
        assert summed(records, [record]) == pytest.approx(wanted, abs=1e-3 * NORM)


@pytest.mark.parametrize("clipping", ["abadi", "automatic"])
def test_a_person_moves_the_sum_by_at_most_c(clipping: str) -> None:
    people = [list(range(start, 35, 5)) for start in range(5)]
    records = with_its_canonical_rows(random_records(35, people))
    phase = PHASE if clipping == "abadi" else PHASE.changed(clipping=AutomaticClipping(norm=NORM))
    whole = summed(records, range(5), phase)
    for unit in range(5):
        without = summed(records, [i for i in range(5) if i != unit], phase)
        assert 0.1 * NORM < np.linalg.norm(whole - without) <= NORM
        assert whole - without == pytest.approx(summed(records, [unit], phase), abs=1e-12)


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_a_loss_that_is_no_number_adds_nothing_and_skips_no_step(value: float) -> None:
    """A step that was left out would tell that such a record was sampled."""
    records = with_its_canonical_rows(random_records(10))
    clean = summed(records, [i for i in range(10) if i != 3])
    records.directions[3] = value
    assert summed(records, range(10)) == pytest.approx(clean, abs=1e-12)
    phase = PHASE.changed(steps_per_round=4, sampling_rate=1.0)
    released = run(records, phase)
    assert released.shape == (4 * K,)
    assert np.isfinite(released).all()
    assert (released != 0).all()


def test_an_empty_sample_is_a_noisy_step() -> None:
    released = run(ZEROS, PHASE.changed(steps_per_round=3, sampling_rate=1e-9))
    assert len(released) == 3 * K
    assert (released != 0).all()


def test_the_coordinator_takes_the_sites_own_steps_again() -> None:
    phase = noised(0.05, rounds=3, steps_per_round=4)
    model = OneBias()
    layout = select_biases(model)
    start, step = read_biases(model, layout), 4  # the second round's first
    released, state = train_round(
        model, layout, random_records(40), phase, 40, start, OptimizerState(step), directions=PUBLIC
    )
    assert released.shape == (phase.released_size(WIDTH),) == (4 * K,)
    assert state.step == 8
    change = phase.change(released, step, PUBLIC, WIDTH)
    assert read_biases(model, layout) - start == pytest.approx(change, abs=1e-6)
    other = phase.change(released, 0, PUBLIC, WIDTH)
    assert np.linalg.norm(other - change) > 0.5 * np.linalg.norm(change)


def test_an_honest_message_is_within_its_public_bound() -> None:
    for multiplier in (0.01, 5.0):
        phase = noised(multiplier, steps_per_round=10, sampling_rate=1.0)
        released = run(Records.of(torch.ones(40, WIDTH)), phase, declared_size=40)
        assert np.linalg.norm(released) < phase.largest_update(WIDTH, 40)
        change = phase.change(released, 0, PUBLIC, WIDTH)
        assert np.abs(change).max() < phase.largest_distance(40)


@pytest.mark.parametrize("name", MODELS)
def test_derivatives_are_those_of_autograd(name: str) -> None:
    model = build(name)
    layout, of = select_biases(model), losses(model, name)
    start = read_biases(model, layout)
    with PHASE.estimator.attach(model, layout, PUBLIC) as estimator:
        estimator.begin(2)
        rows = estimator.rows(lambda: of(range(RECORDS)), RECORDS)
    assert (read_biases(model, layout) == start).all()
    parameters = [model.get_parameter(name).requires_grad_(True) for name in layout.names]
    for record, row in enumerate(rows):
        alone = torch.autograd.grad(of([record]).sum(), parameters, materialize_grads=True)
        gradient = torch.cat([part.reshape(-1) for part in alone]).numpy()
        wanted = signs(2, layout.size) @ gradient / K**0.5
        assert row.numpy() == pytest.approx(wanted, abs=0.02 * float(np.linalg.norm(gradient)))


def test_no_activation_is_kept_and_losses_count_in_float32() -> None:
    model = nn.Sequential(nn.Linear(3, 1))
    seen = []

    def of() -> torch.Tensor:
        seen.append(torch.is_grad_enabled())
        return (model(torch.ones(4, 3))[:, 0] * 300).double()

    with PHASE.estimator.attach(model, select_biases(model), PUBLIC) as estimator:
        rows = estimator.rows(of, 4)
    assert seen == [False] * (2 * K)
    assert rows.dtype == torch.float32
    assert rows.numpy() == pytest.approx(np.tile(signs(0, 1).T * 300.0 / K**0.5, (4, 1)), rel=1e-2)


def test_the_biases_are_put_back_whatever_happens() -> None:
    model = nn.Sequential(nn.Linear(3, 1))
    layout = select_biases(model)
    start = read_biases(model, layout)
    with PHASE.estimator.attach(model, layout, PUBLIC) as estimator:
        with pytest.raises(ModelError, match="one loss for each record"):
            estimator.rows(lambda: model(torch.ones(4, 3)).mean(), 4)
        assert (read_biases(model, layout) == start).all()


def test_without_public_directions_nothing_begins() -> None:
    model = OneBias()
    with pytest.raises(InputError, match="directions"):
        PHASE.estimator.attach(model, select_biases(model))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"directions": 10**9}, "directions"),
        ({"directions": 0}, "directions"),
        ({"smoothing": 1e-30}, "smoothing"),
        ({"smoothing": 1e9}, "smoothing"),
        ({"smoothing": -1e-3}, "smoothing"),
    ],
)
def test_what_no_plan_may_ask_for_is_named(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError, match=field):
        PHASE.estimator.changed(**changes)


def measured_epsilon(phase: DpZeroPhase, draws: int, delta: float) -> float:
    """A lower bound (at 99.9 %) on what one step of ``phase`` costs, from a canary in or out.

    The adversary knows the directions, and so the canary's row; of a Gaussian mechanism the
    two rates of its errors bound mu (Nasr et al. 2023, arXiv 2302.07956, section 4).
    """
    records = random_records(6)
    canary = signs() @ records.directions[5].numpy()
    noise = phase.noise.source(phase.clipping.sensitivity)
    scores = []
    for present in (5, 6):
        total = np.rint(summed(records, range(present), phase) / noise.step).astype(np.int64)
        others = summed(records, range(5), phase)
        released = np.array([noise.release(total) for _ in range(draws)]) - others
        scores.append(released @ canary / np.linalg.norm(canary) / NORM)
    threshold = 0.5
    wrong = [(scores[0] > threshold).sum(), (scores[1] <= threshold).sum()]
    most = [stats.beta.ppf(0.9995, errors + 1, draws - errors) for errors in wrong]
    least_mu = -stats.norm.ppf(most).sum()
    return _epsilon_of_mu(least_mu, delta)


def _epsilon_of_mu(mu: float, delta: float) -> float:
    return float(brentq(lambda value: gaussian_mu(value, delta) - mu, 1e-3, 60.0))


def test_an_audit_stays_below_the_claim_and_rises_above_it_when_noise_is_halved() -> None:
    delta, draws = 1e-5, 4000
    claim = epsilon({Mechanism(1.0, 1.0): 1}, delta).epsilon
    assert 0.7 * claim < measured_epsilon(noised(1.0), draws, delta) < claim
    assert measured_epsilon(noised(0.5), draws, delta) > claim
