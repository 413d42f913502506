"""Where a device's libraries choose kernels by shape, only shapes that were checked are computed.

A CPU stands in for such a device: what is tested is which shapes occur, not its kernels.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dpbitfit.engine import batches
from dpbitfit.engine.batches import (
    LARGEST_SHAPE,
    filled,
    has_few_shapes,
    micro_batches,
    padded_length,
    shapes,
)
from dpbitfit.engine.biases import select_biases
from dpbitfit.engine.optimizers import OptimizerState
from dpbitfit.engine.selfcheck import check_gradients
from dpbitfit.engine.training import train_round
from dpbitfit.errors import ModelError
from dpbitfit.tasks.evaluation import outputs

from ...support import plans, tasks
from ...support.devices import limit_memory
from ...support.shallow import narrow_minilm
from ...support.tasks import text_table

MAX_LENGTH = 12


@given(
    lengths=st.lists(st.sampled_from([8, 12, 512, 5000]), min_size=1, max_size=300),
    canonical=st.sampled_from([1, 4, 16, 64]),
    budget=st.integers(1, 10_000),
)
def test_every_micro_batch_has_one_of_the_shapes(
    lengths: list[int], canonical: int, budget: int
) -> None:
    cut = list(micro_batches(range(len(lengths)), np.array(lengths), canonical, budget, True))
    assert sorted(chain(*cut)) == list(range(len(lengths)))
    for batch in cut:
        (length,) = {lengths[record] for record in batch}
        rows = filled(batch, canonical, few_shapes=True)
        assert rows[: len(batch)] == batch
        assert set(rows) == set(batch)
        assert len(rows) in shapes(length, canonical, budget)
        assert len(rows) == canonical or len(rows) * length <= budget
        assert len(rows) - len(batch) <= max(len(rows) // 4, canonical - 1)
        assert len(rows) <= max(LARGEST_SHAPE, canonical)


def test_shapes_are_few_wherever_a_model_is_not_on_the_cpu() -> None:
    assert not has_few_shapes(nn.Linear(1, 1))
    assert has_few_shapes(nn.Linear(1, 1, device="meta"))


class Watched:
    """The shapes [B, T] that a text model has read."""

    def __init__(self, task: Any) -> None:
        self.seen: set[tuple[int, ...]] = set()
        task.model.backbone.register_forward_pre_hook(self._read, with_kwargs=True)

    def _read(self, _module: nn.Module, _inputs: Any, named: dict[str, torch.Tensor]) -> None:
        self.seen.add(tuple(named["input_ids"].shape))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "has_few_shapes", lambda _model: True)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("fits", [10_000, 100])  # tokens
def test_what_trains_and_what_is_evaluated_has_only_shapes_that_were_checked(
    fits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "LARGEST_SHAPE", 16)  # a CPU takes its time
    task = tasks.load_text(narrow_minilm(), ("a", "b"), max_length=MAX_LENGTH)
    limit_memory(task.model.backbone, fits)
    probes = task.probes()
    every = {padded_length(tokens, task.positions) for tokens in range(1, MAX_LENGTH + 1)}
    assert set(probes.lengths) == every
    watched = Watched(task)
    _, canonical = check_gradients(
        task.model, task.layout, lambda rows: probes.losses(task.model, rows), probes.lengths
    )
    assert canonical == task.canonical_rows
    checked, watched.seen = watched.seen, set()
    texts = ["word " * (1 + number % 30) for number in range(90)]
    records = task.records(text_table(texts, np.arange(90) % 2))
    task.evaluate(records)
    task.features(records)
    evaluated, watched.seen = watched.seen, set()
    phase = plans.phase(sampling_rate=0.7, rounds=1, steps_per_round=2)

    start = task.pretrained
    train_round(task.model, task.layout, records, phase, 90, start, OptimizerState())
    assert evaluated
    assert watched.seen
    assert evaluated | watched.seen <= checked
    assert max(rows * length for rows, length in checked) <= fits


class MixesInFullBatches(nn.Module):
    """As a kernel that sums in another order from ``rows`` rows on."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.layer, self.rows = nn.Linear(3, 4), rows

    def forward(self, records: torch.Tensor) -> torch.Tensor:
        states = self.layer(records)
        shift = 1e-6 if len(records) >= self.rows else 0.0
        return (states * (1 + shift)).tanh().sum(dim=1)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(("rows", "wanted"), [(8, 8), (32, 32), (64, 64)])
def test_the_canonical_size_is_that_from_which_all_shapes_agree(rows: int, wanted: int) -> None:
    torch.manual_seed(0)
    model, records = MixesInFullBatches(rows).eval(), torch.randn(3, 3)

    def losses(chosen: Sequence[int]) -> torch.Tensor:
        result: torch.Tensor = model(records[list(chosen)])
        return result

    _, canonical = check_gradients(model, select_biases(model), losses, np.array([8, 8, 8]))
    assert canonical == wanted


@pytest.mark.usefixtures("few")
def test_a_row_that_knows_its_place_in_the_only_shape_is_refused() -> None:
    class KnowsItsPlace(MixesInFullBatches):
        def forward(self, records: torch.Tensor) -> torch.Tensor:
            places = torch.arange(len(records), dtype=torch.float32)
            return (self.layer(records) * (1 + 1e-6 * places[:, None])).tanh().sum(dim=1)

    torch.manual_seed(0)
    model, records = KnowsItsPlace(0).eval(), torch.randn(3, 3)
    with pytest.raises(ModelError, match="its rounding changes with the batch"):
        check_gradients(
            model,
            select_biases(model),
            lambda chosen: model(records[list(chosen)]),
            np.array([512, 512, 512]),
        )


def test_outputs_are_cut_for_the_device_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where an evaluation cuts its batches as a CPU may."""
    monkeypatch.setattr(batches, "has_few_shapes", lambda model: model is chosen)
    chosen, other = nn.Linear(1, 1), nn.Linear(1, 1)
    sizes: list[int] = []

    class Records:
        lengths, canonical_rows = np.full(132, 8), 4

    def forward(rows: Sequence[int]) -> torch.Tensor:
        sizes.append(len(rows))
        return torch.zeros(len(rows))

    records: Any = Records()
    list(outputs(chosen, records, forward))
    assert sizes == [128, 4]
    sizes.clear()
    list(outputs(other, records, forward))
    assert sizes == [132]
