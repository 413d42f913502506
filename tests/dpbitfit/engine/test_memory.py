"""What does not fit a device's memory is cut smaller, and the same is released."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from dpbitfit.engine import batches, memory, training
from dpbitfit.engine.biases import select_biases
from dpbitfit.engine.clipping import AbadiClipping
from dpbitfit.engine.determinism import deterministic
from dpbitfit.engine.gradients import PerRecordGradients
from dpbitfit.engine.noise import DiscreteGaussian
from dpbitfit.engine.selfcheck import check_gradients
from dpbitfit.engine.training import clipped_sum
from dpbitfit.errors import ModelError
from dpbitfit.tasks.evaluation import outputs

from ...support import models
from ...support.devices import limit_memory
from ...support.tokens import Records

CLIPPER = AbadiClipping(norm=1.0)
NOISE = DiscreteGaussian(1.0, 1.0)


def lengths(canonical_rows: int) -> list[int]:
    """Of 8 to 24 tokens, each as often as fills three of the smallest micro-batches."""
    return [8 + 4 * (7 * number % 5) for number in range(15 * canonical_rows)]


@pytest.fixture(scope="module")
def canonical_rows() -> int:
    """Of a small BERT on this machine."""
    model, probes = models.build("bert"), Records([8, 8, 8, 20, 20, 20])
    losses = partial(probes.losses, model)
    return check_gradients(model, select_biases(model), losses, probes.lengths)[1]


@pytest.fixture
def model() -> nn.Module:
    """Of whose memory nothing is known yet."""
    return models.build("bert")


def integers(model: nn.Module, records: Records) -> NDArray[np.int64]:
    sample = np.arange(len(records.units))
    with deterministic(), PerRecordGradients(model, select_biases(model)) as estimator:
        return clipped_sum(model, estimator, records, sample, CLIPPER, NOISE)


def outputs_of(model: nn.Module, records: Records) -> NDArray[np.float32]:
    values = np.empty((len(records.lengths), models.CLASSES), np.float32)
    for batch, logits in outputs(model, records, partial(records.logits, model)):
        values[batch] = logits
    return values


@pytest.mark.parametrize("fits", [62, 33, 25])  # tokens, times the canonical rows
def test_what_runs_out_of_memory_is_cut_smaller_and_adds_up_the_same(
    model: nn.Module, canonical_rows: int, fits: int
) -> None:
    """Records of a unit are added up in one order: in float32, another gives other integers."""
    records = Records(lengths(canonical_rows), people=13, canonical_rows=canonical_rows)
    wanted, values = integers(model, records), outputs_of(model, records)
    most = fits * canonical_rows
    tried = limit_memory(model, most)
    assert np.array_equal(integers(model, records), wanted)
    assert max(tried) > most
    tried.clear()
    assert np.array_equal(integers(model, records), wanted)
    assert np.array_equal(outputs_of(model, records), values)
    assert max(tried) <= most  # what did not fit is not tried again


def test_a_cpus_failed_allocation_is_as_any_devices(model: nn.Module, canonical_rows: int) -> None:
    records = Records(lengths(canonical_rows), canonical_rows=canonical_rows)
    wanted = integers(model, records)
    tried = limit_memory(model, 25 * canonical_rows, lambda: torch.empty(1 << 48))
    assert np.array_equal(integers(model, records), wanted)
    assert max(tried) > 25 * canonical_rows


def test_a_check_for_which_a_cpus_memory_is_too_small_says_so(model: nn.Module) -> None:
    probes = Records([8, 8, 8])
    losses = partial(probes.losses, model)
    limit_memory(model, 8 * 40, lambda: torch.empty(1 << 48))
    check_gradients(model, select_biases(model), losses, probes.lengths)
    assert memory.token_budget(model) < memory.CPU_TOKENS
    limit_memory(model, 0, lambda: torch.empty(1 << 48))
    with pytest.raises(ModelError, match="too little memory for the smallest"):
        check_gradients(model, select_biases(model), losses, probes.lengths)


def test_another_error_stays_what_it_is(model: nn.Module) -> None:
    limit_memory(model, 0, lambda: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        integers(model, Records([8]))


def test_an_evaluation_that_runs_out_of_memory_goes_on(
    model: nn.Module, canonical_rows: int
) -> None:
    records = Records(lengths(canonical_rows), canonical_rows=canonical_rows)
    wanted = outputs_of(model, records)
    tried = limit_memory(model, 25 * canonical_rows)
    assert np.array_equal(outputs_of(model, records), wanted)
    assert max(tried) > 25 * canonical_rows


def test_rows_that_could_not_be_clipped_are_computed_again(
    model: nn.Module, canonical_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = Records(lengths(canonical_rows), canonical_rows=canonical_rows)
    wanted = integers(model, records)
    clip, calls = AbadiClipping.clip, []

    def failing(clipper: AbadiClipping, rows: torch.Tensor) -> torch.Tensor:
        calls.append(rows)
        if len(calls) == 3:
            raise torch.OutOfMemoryError
        return clip(clipper, rows)

    monkeypatch.setattr(AbadiClipping, "clip", failing)
    assert np.array_equal(integers(model, records), wanted)


def test_a_micro_batchs_rows_are_few_enough_for_their_width(
    model: nn.Module, canonical_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However short records are: the rows of many biases take more than what makes them."""
    records = Records(lengths(canonical_rows), canonical_rows=canonical_rows)
    wanted, rows = integers(model, records), []
    compute = PerRecordGradients.rows_in_parts

    def counted(gradients: PerRecordGradients, losses: Any, count: int) -> list[torch.Tensor]:
        rows.append(count)
        return compute(gradients, losses, count)

    monkeypatch.setattr(PerRecordGradients, "rows_in_parts", counted)
    most = 2 * canonical_rows
    monkeypatch.setattr(training, "MOST_VALUES", most * select_biases(model).size)
    assert np.array_equal(integers(model, records), wanted)
    assert max(rows) == most


def test_where_the_smallest_micro_batch_does_not_fit_the_error_says_what_to_do() -> None:
    """And nothing of the records: neither how long they are nor how many."""
    texts = set()
    for lengths in ([20] * 9, [24] * 5, [16]):
        model = models.build("bert")
        limit_memory(model, 15)
        with pytest.raises(ModelError, match="choose another device") as caught:
            integers(model, Records(lengths))
        assert caught.value.__suppress_context__
        texts.add(str(caught.value))
    assert len(texts) == 1


def test_a_gpu_has_larger_micro_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.Linear(1, 1)
    assert memory.token_budget(model) == memory.CPU_TOKENS
    monkeypatch.setattr(batches, "has_few_shapes", lambda _model: True)
    assert memory.token_budget(model) == memory.GPU_TOKENS
    memory.halve(model, rows=64, length=100, canonical_rows=4)
    assert memory.token_budget(model) == 3200
    memory.halve(model, rows=128, length=100, canonical_rows=4)  # of another length
    assert memory.token_budget(model) == 3200
