"""The private step: what it sums, what it adds, what it divides by, and what it counts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dpbitfit.engine.biases import read_biases, select_biases
from dpbitfit.engine.noise import DiscreteGaussian, DiscreteGaussianNoise
from dpbitfit.engine.optimizers import ADAM_EPSILON, OptimizerState
from dpbitfit.engine.training import clipped_sum, train_round
from dpbitfit.errors import InputError
from dpbitfit.phases import BiasPhase

from ...support import plans

WIDTH = 400
NORM, SIGMA = 0.5, 2.0
PHASE = plans.phase(
    noise_multiplier=SIGMA,
    sampling_rate=0.5,
    rounds=1,
    steps_per_round=1,
    clipping="abadi",
    clipping_norm=NORM,
    optimizer="sgd",
    learning_rate=1.0,
)


class OneBias(nn.Module):
    """The loss of a record is a linear function of one bias: its gradient is known."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, WIDTH)

    def forward(self, directions: Tensor) -> Tensor:
        return (self.layer(torch.zeros(len(directions), 1)) * directions).sum(dim=1)


@dataclass
class Records:
    """Records whose gradient with respect to the bias is ``directions`` [n, WIDTH]."""

    directions: Tensor
    units: Sequence[np.ndarray]
    lengths: np.ndarray
    canonical_rows: int = 1

    @classmethod
    def of(cls, directions: Any, units: Sequence[Sequence[int]] | None = None) -> "Records":
        directions = torch.as_tensor(directions, dtype=torch.float32)
        count = len(directions)
        groups = [[i] for i in range(count)] if units is None else units
        lengths = 1 + np.arange(count, dtype=np.int64) % 7
        return cls(directions, [np.array(unit, dtype=np.int64) for unit in groups], lengths)

    def losses(self, model: nn.Module, records: Sequence[int]) -> Tensor:
        return model(self.directions[list(records)])


def random_records(count: int, units: Sequence[Sequence[int]] | None = None) -> Records:
    generator = np.random.default_rng(0)
    scales = generator.uniform(0.001, 0.2, (count, 1))
    return Records.of(generator.standard_normal((count, WIDTH)) * scales, units)


def summed(
    records: Records, units: Sequence[int], phase: BiasPhase = PHASE, budget: int = 20
) -> Any:
    """The clipped sum of some units, in the gradients' own unit."""
    model = OneBias()
    layout = select_biases(model)
    noise = phase.noise.source(phase.clipping.sensitivity)
    sample = np.array(units, dtype=np.int64)
    with phase.estimator.attach(model, layout) as estimator:
        total = clipped_sum(model, estimator, records, sample, phase.clipping, noise, budget)
    return total * noise.step


def run(records: Records, phase: BiasPhase, declared_size: int = 100) -> np.ndarray:
    model = OneBias()
    layout = select_biases(model)
    start = read_biases(model, layout)
    change, _ = train_round(model, layout, records, phase, declared_size, start, OptimizerState())
    return change


ZEROS = Records.of(torch.zeros(9, WIDTH))


def test_zero_gradients_come_back_as_noise_of_sigma_c_over_the_public_divisor() -> None:
    """Fails without noise, with noise once per micro-batch, and with any other divisor."""
    changes = np.concatenate([run(ZEROS, PHASE, declared_size=30) for _ in range(50)])
    wanted = SIGMA * NORM / (PHASE.sampling_rate * 30)
    assert changes.std() == pytest.approx(wanted, rel=5 / (2 * changes.size) ** 0.5)


@pytest.mark.parametrize("count", [1, 9, 200])
def test_the_divisor_does_not_know_how_many_records_there_are(count: int) -> None:
    records = Records.of(torch.zeros(count, WIDTH))
    changes = np.concatenate([run(records, PHASE, declared_size=30) for _ in range(20)])
    wanted = SIGMA * NORM / (PHASE.sampling_rate * 30)
    assert changes.std() == pytest.approx(wanted, rel=5 / (2 * changes.size) ** 0.5)


def test_one_noise_draw_a_step_however_many_micro_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    records = Records.of(torch.zeros(40, WIDTH))
    draws = []

    class Counting(DiscreteGaussian):
        def release(self, total: np.ndarray) -> np.ndarray:
            draws.append(total)
            return super().release(total)

    monkeypatch.setattr(
        DiscreteGaussianNoise, "source", lambda noise, norm: Counting(norm, noise.multiplier)
    )
    run(records, plans.phase(PHASE, steps_per_round=3))
    assert len(draws) == 3


def test_each_step_flips_its_own_coin_for_each_unit() -> None:
    """Fails where a round draws once for all its steps: their privacy would not be amplified.

    Unit i alone moves bias i, by a public amount at each step that it is in: so what it
    moved in all tells which steps those were.
    """
    records = Records.of(NORM * torch.eye(WIDTH))
    phase = plans.phase(PHASE, steps_per_round=2, noise_multiplier=0.01, learning_rate=2.0)
    change = run(records, phase, declared_size=1)
    moved = np.round(-change * phase.sampling_rate / NORM).astype(int)  # 2 in the first, then 1
    assert set(moved) <= {0, 1, 2, 3}
    first, second = (moved & 2) == 2, (moved & 1) == 1
    for sampled in (first, second, first == second):
        assert sampled.mean() == pytest.approx(0.5, abs=5 * 0.5 / WIDTH**0.5)


def test_an_empty_sample_is_still_a_noisy_step_that_is_counted() -> None:
    phase = plans.phase(PHASE, sampling_rate=1e-9, steps_per_round=4)
    model = OneBias()
    layout = select_biases(model)
    start = read_biases(model, layout)
    change, state = train_round(model, layout, ZEROS, phase, 100, start, OptimizerState())
    assert state.step == 4
    assert (change != 0).mean() > 0.99
    rates = np.array([1, 0.75, 0.5, 0.25])  # four independent draws at a falling rate
    wanted = np.linalg.norm(rates) * SIGMA * NORM / (1e-9 * 100)
    assert change.std() == pytest.approx(wanted, rel=0.2)


def test_the_mean_change_is_the_clipped_mean_gradient() -> None:
    records = random_records(40)
    quiet = plans.phase(PHASE, noise_multiplier=0.02, sampling_rate=1.0)
    change = run(records, quiet, declared_size=40)
    rows = records.directions.numpy().astype(np.float64)
    clipped = rows * np.minimum(1, NORM / np.linalg.norm(rows, axis=1, keepdims=True))
    assert change == pytest.approx(-clipped.mean(axis=0), abs=6 * 0.02 * NORM / 40)


@pytest.mark.parametrize("clipping", ["abadi", "automatic"])
def test_adding_or_removing_a_record_moves_the_sum_by_at_most_c(clipping: str) -> None:
    records = random_records(30)
    phase = plans.phase(PHASE, clipping=clipping)
    whole = summed(records, range(30), phase)
    for one in range(30):
        without = summed(records, [i for i in range(30) if i != one], phase)
        assert np.linalg.norm(whole - without) <= NORM


@pytest.mark.parametrize("clipping", ["abadi", "automatic"])
def test_adding_or_removing_a_person_moves_the_sum_by_at_most_c(clipping: str) -> None:
    """Each person's records lie in different micro-batches: their lengths differ."""
    people = [list(range(start, 35, 5)) for start in range(5)]
    records = random_records(35, people)
    phase = plans.phase(PHASE, clipping=clipping)
    whole = summed(records, range(5), phase)
    for one in range(5):
        without = summed(records, [i for i in range(5) if i != one], phase)
        assert np.linalg.norm(whole - without) <= NORM
        rows = records.directions[people[one]].numpy().astype(np.float64).sum(axis=0)
        assert whole - without == pytest.approx(
            rows * np.linalg.norm(whole - without) / np.linalg.norm(rows), abs=1e-4
        )


@pytest.mark.parametrize("budget", [1, 8, 30, 10_000])
def test_the_sum_does_not_depend_on_how_the_batch_is_cut(budget: int) -> None:
    records = random_records(30, [[i, i + 15] for i in range(15)])
    assert summed(records, range(15), budget=budget) == pytest.approx(
        summed(records, range(15), budget=100_000), abs=1e-5
    )


def test_rows_that_fill_up_a_micro_batch_are_not_counted() -> None:
    """A person with several records would have one of them counted for another."""
    records = random_records(12, [[i, i + 1] for i in range(0, 12, 2)])
    wanted = summed(records, range(6))
    records.canonical_rows = 4
    assert np.array_equal(summed(records, range(6)), wanted)


def test_a_record_that_is_not_finite_adds_nothing() -> None:
    records = random_records(10)
    records.directions[3] = torch.nan
    clean = [i for i in range(10) if i != 3]
    assert summed(records, range(10)) == pytest.approx(summed(records, clean), abs=1e-9)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([[np.nan] * WIDTH, [np.inf] * WIDTH], True),
        ([[np.nan] * WIDTH, [0.1] * WIDTH], False),
        ([[0.0] * WIDTH, [0.0] * WIDTH], False),
    ],
)
def test_a_round_without_a_finite_row_says_so_in_the_sites_own_log(
    rows: Any, says: bool, caplog: pytest.LogCaptureFixture
) -> None:
    everyone = plans.phase(PHASE, sampling_rate=1.0)
    change = run(Records.of(np.array(rows)), everyone)
    assert np.isfinite(change).all()
    assert (change != 0).any()
    assert ("no record of this round had a finite gradient" in caplog.text) == says


def test_adam_follows_kingma_and_ba_on_the_noised_gradient() -> None:
    """Against torch's Adam, on the gradients that the rounds themselves released."""
    phase = plans.phase(PHASE, optimizer="adam", learning_rate=0.01, rounds=2, steps_per_round=5)
    released = []

    class Recording(DiscreteGaussian):
        def release(self, total: np.ndarray) -> np.ndarray:
            released.append(super().release(total))
            return released[-1]

    model = OneBias()
    layout = select_biases(model)
    start = read_biases(model, layout)
    trained, state = start, OptimizerState()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            DiscreteGaussianNoise, "source", lambda noise, norm: Recording(norm, noise.multiplier)
        )
        for _ in range(phase.rounds):
            change, state = train_round(model, layout, ZEROS, phase, 100, trained, state)
            trained = trained + change
    parameter = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([parameter], lr=0.01, eps=ADAM_EPSILON)
    for step, total in enumerate(released):
        adam.param_groups[0]["lr"] = 0.01 * (1 - step / 10)  # falls to 0 over the plan
        parameter.grad = torch.tensor(total / (phase.sampling_rate * 100))
        adam.step()
    assert trained == pytest.approx(parameter.detach().numpy(), abs=1e-5)
    assert state.step == len(released) == 10


def test_dropout_is_off_and_the_optimizer_goes_on_where_it_stopped() -> None:
    model = nn.Sequential(OneBias(), nn.Dropout(0.9)).train()
    layout = select_biases(model)
    start = read_biases(model, layout)
    phase = plans.phase(PHASE, optimizer="adam")
    records = random_records(5)
    _, state = train_round(model, layout, records, phase, 10, start, OptimizerState())
    assert not model[1].training
    _, later = train_round(model, layout, records, phase, 10, start, state)
    assert (state.step, later.step) == (1, 2)


def test_a_declared_size_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="declared size"):
        run(ZEROS, PHASE, declared_size=0)


def test_two_runs_of_the_same_round_share_no_noise() -> None:
    first, second = run(ZEROS, PHASE), run(ZEROS, PHASE)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.3
    assert PHASE.noise.source(1.0) is not PHASE.noise.source(1.0)
