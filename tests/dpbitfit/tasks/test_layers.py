"""The last layers train alone: what is below never changes, and is computed once."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import LEDModel

from dpbitfit.data.tables import Table
from dpbitfit.engine.biases import BELOW, read_biases, write_biases
from dpbitfit.engine.gradients import PerRecordGradients
from dpbitfit.engine.noise import FastInsecureNoise
from dpbitfit.engine.optimizers import OptimizerState
from dpbitfit.errors import InputError, ModelError
from dpbitfit.phases import BiasPhase, ClassSums
from dpbitfit.tasks.features import FeatureCache
from dpbitfit.tasks.rounds import RoundStart, site_round
from dpbitfit.tasks.text_classification import layers, records
from dpbitfit.tasks.text_classification.task import TextClassification

from ...support.backbones import backbone
from ...support.tasks import load_text, text_table
from .test_text_classification import LABELS, WORDS, save

# With layers that are alike, that have positions of their own, that pad, that flatten.
NAMES = ("bert", "deberta", "esm", "longformer", "mobilebert", "opt")
PHASE = BiasPhase(
    noise=FastInsecureNoise(multiplier=0.01), rounds=2, steps_per_round=1, sampling_rate=1.0
)


def table(count: int = 12) -> Table:
    texts = [" ".join(WORDS[2 + n % 3 : 5 + n]) or WORDS[2] for n in range(count)]
    return text_table(texts, np.arange(count) % 2)


def load(name: str, folder: Path, count: int) -> TextClassification:
    torch.manual_seed(0)
    return load_text(save(backbone(name), folder), LABELS, "trained", layers=count)


def rows(task: TextClassification, part: Any) -> NDArray[np.float32]:
    """The gradient rows of records of one length."""
    alike = np.flatnonzero(part.lengths == part.lengths[0])
    with PerRecordGradients(task.model, task.layout) as gradients:
        made = gradients.rows(lambda: part.losses(task.model, alike), len(alike))
    return made.numpy()


@pytest.mark.parametrize("name", NAMES)
def test_gradients_and_answers_are_those_of_the_whole_model(name: str, tmp_path: Path) -> None:
    """Those of the biases that train: to the bit, whether what is below is computed anew or not."""
    whole, upper = (load(name, tmp_path / str(count), count) for count in (0, 1))
    places = {place: own for place, _, own in whole.layout.slices()}
    expected = rows(whole, whole.records(table()))
    part = upper.records(table())
    anew = rows(upper, part)
    part.prepare()
    kept = rows(upper, part)
    assert "below" in part.inputs([0])
    assert upper.layout.size < whole.layout.size
    assert (kept == anew).all()
    for parameter, _, own in upper.layout.slices():
        same = expected[:, places[parameter]]
        np.testing.assert_allclose(kept[:, own], same, rtol=1e-4, atol=1e-6)
    assert (upper.logits(part) == whole.logits(whole.records(table()))).all()
    assert (upper.features(part) == whole.features(whole.records(table()))).all()


@pytest.mark.parametrize("name", NAMES)
def test_no_bias_trains_on_which_what_is_kept_depends(name: str, tmp_path: Path) -> None:
    task = load(name, tmp_path, 1)
    part = task.records(table())
    part.prepare()
    before = part.inputs([0])["below"]
    write_biases(task.model, task.layout, task.pretrained + 1)
    again = task.records(table())
    again.prepare()
    assert (again.inputs([0])["below"] == before).all()
    below = " ".join(bias.name for bias in task.layout.left_out if bias.why == BELOW)
    assert re.search(r"layers?\.0\.", below)
    assert not re.search(r"layers?\.1\.", below)


def test_a_bias_below_is_known_however_it_is_used() -> None:
    """Not by its own layer's call alone: else it would train, and what is kept go stale."""
    model = backbone("bert")
    embed = model.embeddings.forward

    def moved(**inputs: Any) -> torch.Tensor:
        states: torch.Tensor = embed(**inputs) + model.extra_bias
        return states

    model.extra_bias = torch.nn.Parameter(torch.zeros(16))
    model.embeddings.forward = moved
    below = layers.UpperLayers(model.eval(), 1).below
    assert {"extra_bias", "embeddings.LayerNorm.bias"} <= below
    assert not any(name.startswith("encoder.layer.1.") for name in below)


def start_of(task: TextClassification, phase: BiasPhase | ClassSums) -> RoundStart:
    return RoundStart(phase, 12, task.pretrained, OptimizerState())


def test_what_is_below_is_computed_once_in_all_phases(tmp_path: Path) -> None:
    task = load("bert", tmp_path, 1)
    first: Any = task.model.backbone.encoder.layer[0]
    computed: list[int] = []
    handle = first.register_forward_hook(lambda *_: computed.append(1))
    part, counts = task.records(table()), []
    cache = FeatureCache(task, part)
    for phase in (ClassSums(noise=PHASE.noise), PHASE, PHASE):
        site_round(task, part, cache, start_of(task, phase))
        counts.append(len(computed))
    handle.remove()
    assert counts == [counts[0]] * 3
    assert counts[0]


def test_records_that_take_too_much_memory_are_computed_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = load("bert", tmp_path, 1)
    kept, anew = task.records(table()), task.records(table())
    kept.prepare()
    monkeypatch.setattr(records, "MOST_BYTES", 100)
    anew.prepare()
    passes: list[int] = []
    handle = task.model.upper._lower[0].register_forward_hook(lambda *_: passes.append(1))
    # By the same steps: whether all records' states fit the memory follows from other records.
    assert torch.equal(kept.inputs([0])["below"], anew.inputs([0])["below"])
    assert len(passes) == 1
    handle.remove()
    assert (rows(task, kept) == rows(task, anew)).all()


def test_a_round_can_be_ended_while_what_is_below_is_computed(tmp_path: Path) -> None:
    task = load("bert", tmp_path, 1)
    part = task.records(table())

    def end(_done: int, _total: int) -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        site_round(task, part, FeatureCache(task, part), start_of(task, PHASE), end)
    assert (read_biases(task.model, task.layout) == task.pretrained).all()
    assert (rows(task, part) == rows(task, task.records(table()))).all()


def test_a_model_that_cannot_go_on_trains_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where going on from what is below would give another answer, nothing is kept."""
    go_on = layers.UpperLayers.go_on
    monkeypatch.setattr(
        layers.UpperLayers, "go_on", lambda *arguments: go_on(*arguments) * 1.0000002
    )
    task = load("bert", tmp_path, 1)
    part = task.records(table())
    site_round(task, part, FeatureCache(task, part), start_of(task, PHASE))
    assert "below" not in part.inputs([0])


def test_more_layers_than_there_are_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'layers' is 3, and the model has 2"):
        load("bert", tmp_path, 3)


def test_a_model_that_is_no_stack_of_layers_is_refused(tmp_path: Path) -> None:
    config = backbone("led").config
    config.encoder_layers = config.decoder_layers = 2
    config.attention_window = [8, 8]
    model = save(LEDModel(config), tmp_path)
    with pytest.raises(ModelError, match="not one stack of layers: leave"):
        load_text(model, LABELS, "trained", layers=1)
