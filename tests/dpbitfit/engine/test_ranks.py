"""Two processes train as one: the same integers, one sample and one noise a step."""

import pickle
import sys
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import distributed

from dpbitfit.engine.biases import read_biases, select_biases, write_biases
from dpbitfit.engine.determinism import deterministic
from dpbitfit.engine.noise import DiscreteGaussian
from dpbitfit.engine.optimizers import OptimizerState
from dpbitfit.engine.ranks import Ranks
from dpbitfit.engine.sampling import PoissonSampler
from dpbitfit.engine.training import clipped_sum, train_round
from dpbitfit.errors import DpbitfitError

from ...support import models, plans, warm
from ...support.tokens import Records

COUNT, STEPS = 2, 3
PHASE = plans.phase(
    sampling_rate=0.5, rounds=1, steps_per_round=STEPS, noise_multiplier=1.0, clipping_norm=1.0
)
LENGTHS = [8 + 4 * (7 * number % 5) for number in range(40)]
START = f"from {__name__} import work; work()"


def records() -> Records:
    """Of 13 persons; gradients do not depend on the batch at this size (``test_memory``)."""
    return Records(LENGTHS, people=13, canonical_rows=8)


def train(ranks: Ranks, case: str, rank: int) -> dict[str, Any]:
    """A round, and what was drawn and added up in it here."""
    model = models.build("bert")
    layout = select_biases(model)
    seen: dict[str, Any] = {"samples": [], "released": []}
    draw, release = PoissonSampler.draw, DiscreteGaussian.release
    data = records()

    def drawn(sampler: PoissonSampler) -> Any:
        seen["samples"].append(draw(sampler))
        return seen["samples"][-1]

    def released(noise: DiscreteGaussian, total: Any) -> Any:
        seen["released"].append((read_biases(model, layout), total.copy()))
        return release(noise, total)

    def broken(*_: Any) -> Any:
        raise RuntimeError("a fault of this process")

    if case == "broken" and rank == 1:
        data.losses = broken  # type: ignore[method-assign]
    if case == "other units" and rank:  # as those of a set are, in each process another order
        data.units = data.units[::-1]
    biases = read_biases(model, layout) + (1e-7 if case == "other biases" and rank else 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PoissonSampler, "draw", drawn)
        patch.setattr(DiscreteGaussian, "release", released)
        try:
            seen["change"], state = train_round(
                model, layout, data, PHASE, 26, biases, OptimizerState(), ranks=ranks
            )
            seen["steps"] = state.step
        except (DpbitfitError, RuntimeError) as error:
            seen["error"] = f"{type(error).__name__}: {error}"
    return seen


def work() -> None:
    """One of the processes; its words are its rank, the case and the folder."""
    rank, case, folder = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'meeting'}",
        rank=rank,
        world_size=COUNT,
        timeout=timedelta(minutes=5),
    )
    seen = train(Ranks(distributed.group.WORLD), case, rank)
    (folder / str(rank)).write_bytes(pickle.dumps(seen))
    distributed.destroy_process_group()


@pytest.fixture
def both(tmp_path: Path) -> Callable[[str], list[dict[str, Any]]]:
    def run(case: str) -> list[dict[str, Any]]:
        with ExitStack() as stack:
            for rank in range(COUNT):
                stack.enter_context(warm.Process(START, str(rank), case, str(tmp_path)))
        return [pickle.loads((tmp_path / str(rank)).read_bytes()) for rank in range(COUNT)]

    return run


def test_two_processes_add_up_what_one_does_and_draw_once(both: Any) -> None:
    first, second = both("whole")
    assert len(first["samples"]) == len(first["released"]) == STEPS
    assert second["samples"] == second["released"] == []
    assert np.array_equal(first["change"], second["change"])
    assert first["steps"] == second["steps"] == STEPS
    model = models.build("bert")
    layout = select_biases(model)
    noise = PHASE.noise.source(PHASE.clipping.sensitivity)
    for sample, (biases, total) in zip(first["samples"], first["released"], strict=True):
        write_biases(model, layout, biases)
        with deterministic(), PHASE.estimator.attach(model, layout) as estimator:
            alone = clipped_sum(model, estimator, records(), sample, PHASE.clipping, noise)
        assert np.array_equal(total, alone)
    assert not np.array_equal(first["released"][0][1], first["released"][1][1])


def test_where_one_process_fails_all_end_and_nothing_is_released(both: Any) -> None:
    first, second = both("broken")
    assert first["error"].startswith("WorkerError: another process")
    assert "RuntimeError" in first["error"]
    assert "a fault of" not in first["error"]
    assert second["error"] == "RuntimeError: a fault of this process"
    assert first["released"] == second["released"] == []


@pytest.mark.parametrize("case", ["other biases", "other units"])
def test_processes_that_begin_from_other_things_are_refused(both: Any, case: str) -> None:
    for seen in both(case):
        assert seen["error"].startswith("ModelError: processes that train together")
        assert seen["released"] == seen["samples"] == []


def test_one_process_needs_no_group() -> None:
    seen = train(Ranks(), "whole", 0)
    assert seen["steps"] == len(seen["released"]) == STEPS
    units = np.arange(5)
    assert np.array_equal(Ranks().share(units), units)
