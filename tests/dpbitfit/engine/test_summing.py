"""The integers that are summed: those of an independent computation, on every device."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from dpbitfit.engine.biases import select_biases
from dpbitfit.engine.clipping import STABILITY, AbadiClipping, AutomaticClipping, Clipper
from dpbitfit.engine.gradients import PerRecordGradients
from dpbitfit.engine.noise import DiscreteGaussian
from dpbitfit.engine.summing import UnitSum

CLIPPERS = [AbadiClipping, AutomaticClipping]
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=CUDA)]
HOSTILE = [np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 1e-45, -1e-38, 1e19, 0.0, -0.0]
Rows = NDArray[np.float32]


def expected(
    rows: Rows, batches: Sequence[Sequence[int]], units: Any, clipper: Clipper, step: float
) -> NDArray[np.int64]:
    """The sum by numpy and Python's exact sums, one unit at a time."""
    order = {record: place for place, record in enumerate(r for batch in batches for r in batch)}
    total = np.zeros(rows.shape[1], np.int64)
    for unit in units:
        summed = np.zeros(rows.shape[1], np.float32)
        for record in sorted(unit, key=lambda record: order[record]):
            with np.errstate(all="ignore"):
                summed = summed + rows[record]
        exact = summed.astype(np.float64)
        if not np.isfinite(exact).all():
            continue
        length = math.sqrt(math.fsum(exact * exact))
        if isinstance(clipper, AbadiClipping):
            factor = clipper.norm / max(length, clipper.norm)
        else:
            factor = clipper.norm / (length + STABILITY)
        total += np.trunc(exact * (factor * (1 - 1e-12)) / step).astype(np.int64)
    return total


def summed(
    rows: torch.Tensor, batches: Sequence[Sequence[int]], units: Any, clipper: Clipper, noise: Any
) -> UnitSum:
    zeros = torch.zeros(rows.shape[1], dtype=torch.int64, device=rows.device)
    groups = [np.array(unit, np.int64) for unit in units]
    result = UnitSum(groups, np.arange(len(groups)), clipper, noise, zeros)
    for batch in batches:
        result.ready(batch, rows[list(batch)])()
    return result


def case(seed: int) -> tuple[Rows, list[list[int]], list[list[int]]]:
    """Rows of all sizes, some hostile, cut into batches, of units with one to five records."""
    generator = np.random.default_rng(seed)
    count, width = int(generator.integers(1, 70)), int(generator.integers(1, 300))
    scales = 10.0 ** generator.uniform(-6, 6, (count, 1))
    rows = (generator.standard_normal((count, width)) * scales).astype(np.float32)
    hostile = generator.random(rows.shape) < generator.choice([0, 1e-3, 0.02])
    rows[hostile] = generator.choice(HOSTILE, hostile.sum()).astype(np.float32)

    def cut(most: int) -> list[list[int]]:
        order = generator.permutation(count)
        places = np.flatnonzero(generator.random(count) < 1 / most)
        return [part.tolist() for part in np.split(order, places) if len(part)]

    return rows, cut(17), cut(int(generator.choice([1, 3])))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", CLIPPERS)
def test_the_integers_are_those_of_an_independent_computation(kind: Any, device: str) -> None:
    for seed in range(150):
        rows, batches, units = case(seed)
        clipper = kind(norm=10.0 ** (seed % 7 - 4))
        noise = DiscreteGaussian(clipper.sensitivity, 0.01 if seed % 2 else 1.5)
        total = summed(torch.from_numpy(rows).to(device), batches, units, clipper, noise).total()
        wanted = expected(rows, batches, units, clipper, noise.step)
        assert total.dtype == np.int64
        assert np.array_equal(total, wanted), seed


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", CLIPPERS)
def test_a_clipped_row_does_not_know_of_its_companions(kind: Any, device: str) -> None:
    """To the bit: a device's own sum of squares may go another way for another number of rows."""
    generator = np.random.default_rng(0)
    for width in (1, 2, 3, 1000, 25_728):
        rows = generator.standard_normal((33, width)).astype(np.float32)
        clip, on_device = kind(norm=1.0).clip, torch.from_numpy(rows).to(device)
        clipped = clip(on_device).cpu().numpy()
        for place in range(33):
            alone = clip(on_device[place : place + 1]).cpu().numpy()
            assert np.array_equal(clipped[place : place + 1], alone)
            squares = rows[place].astype(np.float64) ** 2
            while len(squares) > 1:  # half to half
                half = (len(squares) + 1) // 2
                squares = squares[:half] + np.pad(squares[half:], (0, 2 * half - len(squares)))
            # A device's own root: MKL's is not always the nearest number, but one for each square.
            norm = torch.tensor(squares[0], device=device).sqrt().item()
            factor = 1 / (max(norm, 1.0) if kind is AbadiClipping else norm + STABILITY)
            expected = rows[place] * (np.float64(factor) * (1 - 1e-12))
            assert np.array_equal(clipped[place], expected)


def test_the_largest_sums_are_exact() -> None:
    """Far beyond 2^53, where a sum in floating point loses the last bits."""
    clipper = AbadiClipping(norm=1.0)
    noise = DiscreteGaussian(1.0, 1e-11)  # a grid of 2^-57
    rows = np.array([[1.0], [2.0**-50], [2.0**-50]] * 25, np.float32)
    each = [[record] for record in range(len(rows))]
    whole = [list(range(len(rows)))]
    total = summed(torch.from_numpy(rows), whole, each, clipper, noise).total()
    wanted = sum(math.trunc(float(row) * (1 - 1e-12) / noise.step) for (row,) in rows)
    assert wanted > 2**53
    assert total.tolist() == [wanted]


def test_no_row_and_nothing_of_one_is_read_from_the_device() -> None:
    """On a device without memory: what reads a value of it raises."""
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).to("meta")
    estimator = PerRecordGradients(model, select_biases(model)).__enter__()
    rows = estimator.rows(lambda: model(torch.ones(4, 3, device="meta")).sum(dim=1), 4)
    for units in ([[0], [1], [2], [3]], [[0, 2], [1], [3]]):
        total = summed(
            rows, [[0, 1], [2, 3]], units, AbadiClipping(norm=1.0), DiscreteGaussian(1.0, 1.0)
        )
        with pytest.raises(NotImplementedError, match="meta"):
            total.total()


def test_what_fails_has_counted_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).standard_normal((4, 9)).astype(np.float32)
    units = [[0, 2], [1], [3]]
    batches = [[0, 1], [2, 3]]
    noise = DiscreteGaussian(1.0, 1.0)
    wanted = summed(torch.from_numpy(rows), batches, units, AbadiClipping(norm=1.0), noise).total()
    result = summed(torch.from_numpy(rows), [[0, 1]], units, AbadiClipping(norm=1.0), noise)
    calls: list[torch.Tensor] = []

    def failing(_clipper: Any, some: torch.Tensor) -> torch.Tensor:
        calls.append(some)
        if len(calls) == 2:  # the first was for record 3
            raise torch.OutOfMemoryError("no memory")
        return some.double()

    monkeypatch.setattr(AbadiClipping, "clip", failing)
    with pytest.raises(torch.OutOfMemoryError):
        result.ready([2, 3], torch.from_numpy(rows[2:]))
    monkeypatch.undo()
    result.ready([2], torch.from_numpy(rows[2:3]))()
    result.ready([3], torch.from_numpy(rows[3:]))()
    assert np.array_equal(result.total(), wanted)
