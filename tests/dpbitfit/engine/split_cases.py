"""A model split over two devices releases what it does on one, and no row leaves a device.

``test_split`` runs these in a process of their own, in which the second device is made before
torch's first backward pass: later ones know of no device that was not there then.
"""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dpbitfit.engine import devices, split, training
from dpbitfit.engine.biases import read_biases, select_biases
from dpbitfit.engine.clipping import AutomaticClipping, Clipper
from dpbitfit.engine.determinism import deterministic
from dpbitfit.engine.directions import Directions
from dpbitfit.engine.finite import FiniteRows
from dpbitfit.engine.gradients import PerRecordGradients
from dpbitfit.engine.groups import HeadAndBiases, PerLayer, PerStage
from dpbitfit.engine.groupwise import AdaptiveClipping, GroupwiseClipping
from dpbitfit.engine.noise import DiscreteGaussian
from dpbitfit.engine.optimizers import OptimizerState
from dpbitfit.engine.summing import UnitSum
from dpbitfit.engine.zero_order import LossDifferences
from dpbitfit.errors import ModelError
from dpbitfit.tasks.attach import attach
from dpbitfit.tasks.registry import read_settings
from dpbitfit.tasks.text_classification.task import TextClassification

from ...support import models, plans
from ...support.second_device import NAME, left, second_device
from ...support.shallow import narrow_minilm
from ...support.tasks import text_table
from ...support.tokens import Records

SECOND = second_device()
HEAD = "classifier.weight"
RECORDS, WIDTH = 40, 16
CPU = torch.device("cpu")
PUBLIC = Directions(bytes(32))
PER_DEVICE: list[Clipper] = [
    GroupwiseClipping(groups=PerStage(norm=0.1)),
    GroupwiseClipping(groups=PerLayer(norm=0.1), allocation="least-total"),
    AdaptiveClipping(groups=PerStage(norm=0.1)),
    AdaptiveClipping(groups=PerLayer(norm=0.1), allocation="equal"),
]
WHOLE: list[Clipper] = [
    AutomaticClipping(norm=1.0),
    GroupwiseClipping(groups=HeadAndBiases(head_norm=0.1, biases_norm=0.1)),
]


@pytest.fixture(autouse=True)
def _unknown_to_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "kinds_of", lambda places: [str(place) for place in places])


class Moving(Records):
    """Whose labels are where the model's last layer is."""

    def losses(self, model: nn.Module, records: Any) -> torch.Tensor:
        logits = self.logits(model, records)
        labels = (torch.tensor([*records]) % models.CLASSES).to(logits.device)
        return nn.functional.cross_entropy(logits, labels, reduction="none")


def records() -> Moving:
    """Of persons with one record, or two."""
    lengths = [8 + 4 * (7 * number % 5) for number in range(RECORDS)]
    return Moving(lengths, people=25, canonical_rows=8)


def model_on(*on: torch.device) -> nn.Module:
    model = models.build("bert")
    split.place(model, on)
    return model


def clipped_sum(model: nn.Module, data: Records, clipping: Clipper) -> np.ndarray:
    layout = select_biases(model, [HEAD])
    clipper, noise = clipping.attach(model, layout), DiscreteGaussian(1.0, 1.0)
    sample = np.arange(0, len(data.units), 2)
    with deterministic(), PerRecordGradients(model, layout) as estimator:
        left.clear()
        return training.clipped_sum(model, estimator, data, sample, clipper, noise)


@pytest.mark.parametrize("clipping", [*PER_DEVICE, *WHOLE])
def test_the_integers_are_those_of_one_device(clipping: Clipper) -> None:
    one = clipped_sum(model_on(CPU), records(), clipping)
    two = clipped_sum(model_on(CPU, SECOND), records(), clipping)
    assert np.array_equal(one, two)
    assert one.any()


@pytest.mark.parametrize("clipping", PER_DEVICE)
def test_a_row_is_clipped_where_it_lies(clipping: Clipper) -> None:
    """What leaves: the gradient of what the layer read, a flag for each record, and the sum."""
    model = model_on(CPU, SECOND)
    clipped_sum(model, records(), clipping)
    (_, there) = split.parts(model, select_biases(model, [HEAD]))
    sums = [moved for moved in left if moved.dim() == 1]
    flags = [moved for moved in left if moved.dtype == torch.bool]
    states = [moved for moved in left if moved.dim() == 3]
    assert len(sums) == 1
    assert there.size <= len(sums[0]) < there.size + 20
    assert sums[0].dtype == torch.int64
    assert {moved.shape[1] for moved in flags} == {1}
    assert {moved.shape[2] for moved in states} == {WIDTH}
    assert len(left) == len(sums) + len(flags) + len(states)


@pytest.mark.parametrize("clipping", PER_DEVICE)
def test_rounds_adapt_and_train_as_on_one_device(
    clipping: Clipper, monkeypatch: pytest.MonkeyPatch
) -> None:
    def noiseless(noise: DiscreteGaussian, total: Any) -> Any:
        return total * noise.step

    monkeypatch.setattr(DiscreteGaussian, "release", noiseless)
    phase = plans.phase(sampling_rate=1.0, rounds=1, steps_per_round=3).changed(clipping=clipping)
    released = []
    for on in ([CPU], [CPU, SECOND]):
        model = model_on(*on)
        layout = select_biases(model, [HEAD])
        start = read_biases(model, layout)
        released.append(
            training.train_round(model, layout, records(), phase, 25, start, OptimizerState())
        )
    (one, first), (two, second) = released
    assert np.array_equal(one, two)
    assert one.any()
    assert (first.norms is None) == (second.norms is None)
    if first.norms is not None:
        assert np.array_equal(first.norms, second.norms)


def test_losses_along_directions_are_those_of_one_device() -> None:
    rows, data, chosen = [], records(), [0, 5, 10, 15]  # of one length
    for on in ([CPU], [CPU, SECOND]):
        model = model_on(*on)
        layout = select_biases(model, [HEAD])
        with deterministic(), LossDifferences(model, layout, PUBLIC, 4, 1e-3) as differences:
            losses = partial(data.losses, model, chosen)
            rows.append(differences.rows(losses, len(chosen)))
    assert torch.equal(*rows)
    assert rows[0].any()


@pytest.mark.parametrize("spoilt", [0, 1])
def test_a_row_that_is_not_finite_on_one_device_is_zero_on_both(spoilt: int) -> None:
    parts = [torch.ones(3, 4), torch.ones(3, 5)]
    parts[spoilt][1, 2] = float("nan")
    finite = FiniteRows().only(parts[0], parts[1].to(SECOND))
    for part in finite:
        assert part.cpu().any(dim=1).tolist() == [True, False, True]


def test_memory_that_is_short_on_the_last_device_counts_nothing_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = Moving([8] * RECORDS, canonical_rows=16)
    model, ready = model_on(CPU, SECOND), UnitSum.ready
    wanted = clipped_sum(model, data, PER_DEVICE[0])
    fails = itertools.count()

    def short(summed: UnitSum, batch: Any, rows: torch.Tensor) -> Callable[[], None]:
        if rows.device.type == NAME and next(fails) == 0:
            raise torch.OutOfMemoryError
        return ready(summed, batch, rows)

    monkeypatch.setattr(UnitSum, "ready", short)
    assert np.array_equal(clipped_sum(model, data, PER_DEVICE[0]), wanted)
    assert next(fails) > 1  # in smaller batches


def test_layers_go_to_devices_in_their_order() -> None:
    model = models.bert(num_hidden_layers=5)
    split.place(model, [CPU, SECOND])
    where = {name: value.device.type for name, value in model.named_parameters()}
    layers = [where[f"bert.encoder.layer.{number}.output.dense.bias"] for number in range(5)]
    assert layers == ["cpu", "cpu", "cpu", NAME, NAME]
    assert where["bert.embeddings.word_embeddings.weight"] == "cpu"
    assert where["classifier.weight"] == NAME
    assert split.devices_of(model) == [CPU, SECOND]
    groups = PerStage(norm=2.0).groups(models.bert(num_hidden_layers=5), select_biases(model))
    assert groups.names == ("stage 0", "stage 1")
    for part, number in zip(split.parts(model, select_biases(model)), (0, 1), strict=True):
        assert set(groups.members[part.places]) == {number}


@pytest.mark.parametrize("name", models.MODELS)
def test_models_compute_the_same(name: str) -> None:
    model, inputs = models.build(name), models.inputs(name)
    before = model(inputs).logits
    split.place(model, [CPU, SECOND])
    assert torch.equal(model(inputs).logits.cpu(), before)


def test_a_model_that_cannot_be_split_is_refused() -> None:
    for model, parts in ((nn.Sequential(nn.Linear(2, 2)), 1), (models.bert(), 3)):
        groups = PerStage(stages=1024).groups(model, select_biases(model))
        assert len(groups.names) == parts  # before the layers, and of two what comes after them
        with pytest.raises(ModelError, match="cannot be split over devices: name one device"):
            split.place(model, [CPU] * 3)


@pytest.mark.parametrize("layers", [0, 1])
def test_a_text_task_is_checked_and_works(monkeypatch: pytest.MonkeyPatch, layers: int) -> None:
    choose, places = devices.choose, {NAME: SECOND}
    monkeypatch.setattr(devices, "choose", lambda name: places.get(name) or choose(name))
    settings = read_settings(TextClassification, {"head": "trained", "layers": layers})
    one, two = (
        attach(TextClassification, narrow_minilm(), settings, ["red", "blue"], device)
        for device in ("cpu", f"cpu+{NAME}")
    )
    assert (one.layout, one.digest) == (two.layout, two.digest)
    assert np.array_equal(one.pretrained, two.pretrained)
    texts = text_table(["red and green", "blue", "a much longer text than those"], [0, 1, 0])
    computed: list[Callable[[Any, Any], Any]] = [
        lambda task, records: task.features(records),
        lambda task, records: task.logits(records).numpy(),
        lambda task, records: task.evaluate(records)["loss"],
        lambda task, records: records.losses(task.model, [0]).detach().cpu().numpy(),
    ]
    for compute in computed:
        first, second = (compute(task, task.records(texts)) for task in (one, two))
        assert second == pytest.approx(first, abs=1e-4)
