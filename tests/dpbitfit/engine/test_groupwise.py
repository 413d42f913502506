"""Clipping by groups: what a unit moves, what noise each group has, where norms go."""

import math
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn

from dpbitfit.engine.biases import read_biases, select_biases
from dpbitfit.engine.groups import Groups, HeadAndBiases, PerLayer
from dpbitfit.engine.groupwise import (
    FURTHEST,
    AdaptiveClipping,
    AdaptiveGroupClipper,
    Allocation,
    GroupClipper,
    GroupwiseClipping,
    _Places,
)
from dpbitfit.engine.noise import DiscreteGaussian, DiscreteGaussianNoise
from dpbitfit.engine.optimizers import OptimizerState
from dpbitfit.engine.summing import UnitSum
from dpbitfit.engine.training import train_round
from dpbitfit.phases import BiasPhase

from ...support import plans
from .test_training import PHASE, Records

ALLOCATIONS = get_args(Allocation)
SIGMA = PHASE.noise.multiplier
SIZES = (40, 200, 160)  # of the layers of ``Layers``


class Layers(nn.Module):
    """The loss of a record is linear in the biases of three layers: its gradient is known."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(1, size) for size in SIZES)

    def forward(self, directions: Tensor) -> Tensor:
        nothing = torch.zeros(len(directions), 1)
        outputs = torch.cat([layer(nothing) for layer in self.layers], dim=1)
        return (outputs * directions).sum(dim=1)


def clipper(
    members: np.ndarray,
    norms: Any,
    allocation: Allocation = "equal-budget",
    adaptive: AdaptiveClipping | None = None,
) -> GroupClipper:
    """Of groups that no rule makes, too."""
    norms = np.asarray(norms, np.float64)
    groups = Groups(tuple(map(str, range(len(norms)))), members, norms)
    places, scales = _Places.of(groups, torch.device("cpu")), groups.scales(allocation)
    if adaptive is None:
        return GroupClipper(allocation, groups, scales, places)
    return AdaptiveGroupClipper(allocation, groups, scales, places, adaptive, norms)


@st.composite
def clippers(draw: st.DrawFn, width: int = 7) -> GroupClipper:
    """Any groups of ``width`` values, any norms, every allocation, fixed and adaptive."""
    count = draw(st.integers(1, width))
    rest = draw(st.lists(st.integers(0, count - 1), min_size=width - count, max_size=width - count))
    members = draw(st.permutations([*range(count), *rest]))
    norms = draw(st.lists(st.floats(1e-9, 1e6), min_size=count, max_size=count))
    cost = draw(st.sampled_from([None, 1e-4, 0.01, 1.0]))
    adaptive = None if cost is None else AdaptiveClipping(quantile_cost=cost)
    return clipper(np.array(members), norms, draw(st.sampled_from(ALLOCATIONS)), adaptive)


ROWS = arrays(np.float32, (5, 7), elements=st.floats(width=32, allow_nan=True))


@given(rows=ROWS, clipper=clippers())
def test_no_row_is_longer_than_the_sensitivity(rows: np.ndarray, clipper: GroupClipper) -> None:
    clipped = clipper.clip(torch.from_numpy(rows)).numpy()
    assert clipped.shape == (5, 7 + clipper.appended)
    assert np.isfinite(clipped).all()
    assert (np.sqrt((clipped**2).sum(axis=1)) <= clipper.sensitivity).all()


@given(clipper=clippers())
def test_the_sensitivity_is_reached(clipper: GroupClipper) -> None:
    """So that no noise is wasted: it is exact."""
    clipped = clipper.clip(torch.full((1, 7), 1e20)).numpy()
    assert np.linalg.norm(clipped) == pytest.approx(clipper.sensitivity, rel=1e-9)


@settings(deadline=None)
@given(rows=ROWS, clipper=clippers(), sigma=st.sampled_from([0.01, 1.0, 50.0]))
def test_a_unit_moves_the_sum_by_its_own_row_and_at_most_the_sensitivity(
    rows: np.ndarray, clipper: GroupClipper, sigma: float
) -> None:
    """In integers, of units of one record and of two."""
    noise = DiscreteGaussian(clipper.sensitivity, sigma)
    units = [np.array(unit) for unit in ([0], [1, 2], [3], [4])]

    def total(sample: list[int]) -> np.ndarray:
        zeros = torch.zeros(7 + clipper.appended, dtype=torch.int64)
        summed = UnitSum(units, np.array(sample), clipper, noise, zeros)
        batch = summed.records
        summed.ready(batch, torch.from_numpy(rows[batch]))()
        return summed.total()

    for unit in range(4):
        alone = total([unit])
        without = total([other for other in range(4) if other != unit])
        assert (total([0, 1, 2, 3]) - without == alone).all()
        assert np.linalg.norm(alone.astype(np.float64)) * noise.step <= clipper.sensitivity


def test_a_clipped_row_does_not_know_of_its_companions() -> None:
    """To the bit, for groups of many sizes."""
    generator = np.random.default_rng(0)
    members = generator.permutation(np.repeat(np.arange(6), [1, 2, 3, 500, 500, 2000]))
    for adaptive in (None, AdaptiveClipping()):
        own = clipper(members, [1.0, 2.0, 0.5, 20.0, 30.0, 1.0], adaptive=adaptive)
        rows = torch.from_numpy(generator.standard_normal((33, 3006)).astype(np.float32))
        together = own.clip(rows)
        for place in range(33):
            assert torch.equal(together[place], own.clip(rows[place : place + 1])[0])


def test_each_group_is_clipped_to_its_own_norm() -> None:
    """And comes back in the gradient's own unit, whatever the allocation of noise."""
    generator = np.random.default_rng(0)
    members, norms = np.arange(600) % 3, np.array([0.5, 3.0, 40.0])
    rows = generator.standard_normal((20, 600)).astype(np.float32)
    wanted = rows.astype(np.float64)
    for group, norm in enumerate(norms):
        lengths = np.linalg.norm(wanted[:, members == group], axis=1, keepdims=True)
        wanted[:, members == group] *= np.minimum(1, norm / lengths)
    for allocation in ALLOCATIONS:
        own = clipper(members, norms, allocation)
        clipped = own.clip(torch.from_numpy(rows)).numpy()
        assert [own.read(row)[0] for row in clipped] == pytest.approx(wanted, rel=1e-9)


# A group's noise over the multiplier, from the definition (He et al. 2023, section 4.3).
def deviations(norms: np.ndarray, sizes: np.ndarray, allocation: str) -> np.ndarray:
    gammas = {
        "equal": np.ones(len(norms)),
        "equal-budget": norms,
        "least-total": np.sqrt(norms / np.sqrt(sizes)),
    }[allocation]
    shares = [(norm / gamma) ** 2 for norm, gamma in zip(norms, gammas, strict=True)]
    scaled: np.ndarray = gammas * math.sqrt(sum(shares))
    return scaled


def changes(phase: BiasPhase, rounds: int) -> np.ndarray:
    """What rounds on gradients of zero release [rounds, 400]."""
    model = Layers()
    layout = select_biases(model)
    start = read_biases(model, layout)
    zeros = Records.of(torch.zeros(9, sum(SIZES)))
    return np.array(
        [
            train_round(model, layout, zeros, phase, 30, start, OptimizerState())[0]
            for _ in range(rounds)
        ]
    )


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("adaptive", [False, True])
def test_each_groups_noise_has_the_deviation_that_the_plan_says(
    allocation: Allocation, adaptive: bool
) -> None:
    """Of the first step, whose norms are the plan's own; adaptive norms cost 25 % here."""
    clipping = (
        AdaptiveClipping(allocation=allocation, quantile_cost=0.25)
        if adaptive
        else GroupwiseClipping(allocation=allocation)
    )
    released = changes(PHASE.changed(clipping=clipping), 40)
    norms = np.full(3, 1 / math.sqrt(3))
    wanted = SIGMA * deviations(norms, np.array(SIZES), allocation)
    wanted *= (1.25 if adaptive else 1.0) / (PHASE.sampling_rate * 30)
    for part, deviation in zip(np.split(released, np.cumsum(SIZES)[:-1], 1), wanted, strict=True):
        assert part.std() == pytest.approx(deviation, rel=5 / (2 * part.size) ** 0.5)


def test_least_total_noise_is_least() -> None:
    norms, sizes = np.array([0.1, 2.0, 1.0]), np.array([10, 1000, 3])
    members = np.repeat(np.arange(3), sizes)
    totals = {
        allocation: float((sizes * clipper(members, norms, allocation).scales ** 2).sum())
        for allocation in ALLOCATIONS
    }
    assert totals["least-total"] == pytest.approx(float((norms * np.sqrt(sizes)).sum() ** 2))
    assert min(totals, key=totals.__getitem__) == "least-total"


def round_of(
    clipping: Any, records: Records, state: OptimizerState, **settings: Any
) -> tuple[np.ndarray, OptimizerState]:
    model = Layers()
    layout = select_biases(model)
    quiet = plans.phase(PHASE, sampling_rate=1.0, noise_multiplier=0.02, **settings)
    start = read_biases(model, layout)
    size = len(records.units)
    phase = quiet.changed(clipping=clipping)
    return train_round(model, layout, records, phase, size, start, state)


def test_adaptive_norms_go_to_the_quantile_of_the_units_norms() -> None:
    """In each layer to its own, from far too much and too little."""
    generator = np.random.default_rng(0)
    scales = np.repeat([0.01, 0.3, 1.0], SIZES)
    rows = generator.standard_normal((400, sum(SIZES))) * scales
    rows *= generator.uniform(0.5, 1.5, (400, 1))
    lengths = [np.linalg.norm(part, axis=1) for part in np.split(rows, np.cumsum(SIZES)[:-1], 1)]
    for norm in (0.5, 5.0):
        clipping = AdaptiveClipping(groups=PerLayer(norm=norm), quantile=0.7)
        _, state = round_of(clipping, Records.of(rows), OptimizerState(), steps_per_round=70)
        assert state.norms is not None
        for own, norms in zip(lengths, state.norms, strict=True):
            assert (own <= norms).mean() == pytest.approx(0.7, abs=0.1)


def test_adapted_norms_go_on_in_the_next_round_and_are_those_in_use() -> None:
    """Two rounds, by what they release: the second one's step is clipped to the new norms."""
    rows = np.full((50, sum(SIZES)), 100.0)
    clipping = AdaptiveClipping(norm_rate=1.0)
    many = {"rounds": 10_000}  # the learning rate stays
    first, state = round_of(clipping, Records.of(rows), OptimizerState(), **many)
    again, later = round_of(clipping, Records.of(rows), state, **many)
    assert state.norms is not None
    assert later.norms is not None
    growth = math.exp(0.5)  # nothing was left unclipped: rate 1 times the quantile
    assert state.norms == pytest.approx(np.full(3, growth / math.sqrt(3)), rel=0.02)
    assert later.norms == pytest.approx(state.norms * growth, rel=0.02)
    places = np.split(np.arange(sum(SIZES)), np.cumsum(SIZES)[:-1])
    for change, norms in ((first, np.full(3, 1 / math.sqrt(3))), (again, state.norms)):
        for place, norm in zip(places, norms, strict=True):
            assert np.linalg.norm(change[place]) == pytest.approx(norm, rel=0.05)


def test_norms_follow_from_released_values_alone_and_stay_in_bounds() -> None:
    own = clipper(np.arange(6) % 2, [1.0, 2.0], adaptive=AdaptiveClipping(norm_rate=1.0))
    assert isinstance(own, AdaptiveGroupClipper)
    released = np.array([*np.zeros(6), 0.25 * own.weight, -1e9])  # shares 0.75, and far below 0
    other = clipper(np.arange(6) % 2, [1.0, 2.0], adaptive=AdaptiveClipping(norm_rate=1.0))
    other.clip(torch.full((9, 6), 7.0))  # what is clipped leaves no trace
    for each in (own, other):
        norms = each.read(released)[1].norms
        assert norms == pytest.approx([math.exp(-0.25), 2 * math.exp(0.5)])
    down: Any = own
    for _ in range(100):
        down = down.read(np.array([*np.zeros(6), 1e9, -1e9]))[1]
    assert down.norms == pytest.approx([1 / FURTHEST, 2 * FURTHEST])


def test_fixed_norms_leave_no_state() -> None:
    _, state = round_of(GroupwiseClipping(), Records.of(np.ones((5, 400))), OptimizerState())
    assert state.norms is None


def test_one_noise_draw_a_step_over_gradient_and_quantiles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One mechanism: nothing is noised apart, and the noise has the plan's multiplier."""
    drawn: list[tuple[float, int]] = []

    class Recording(DiscreteGaussian):
        def release(self, total: np.ndarray) -> np.ndarray:
            drawn.append((self.sigma * self.step, total.size))
            return super().release(total)

    monkeypatch.setattr(
        DiscreteGaussianNoise, "source", lambda noise, norm: Recording(norm, noise.multiplier)
    )
    clipping = AdaptiveClipping(groups=HeadAndBiases())
    round_of(clipping, Records.of(np.ones((5, 400))), OptimizerState(), steps_per_round=3)
    assert drawn == [(pytest.approx(0.02 * 1.01), 400 + 1)] * 3  # without a head, one group
