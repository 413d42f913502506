"""The engine's benchmark: peers compute what they are compared for, and a table outlives a cut."""

import copy
from argparse import Namespace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from .benchmarks import engine, measuring, peers, real_text, shapes
from .support import models

CPU = torch.device("cpu")


class Small(nn.Module):
    """A small BERT that is called as the benchmark calls its models."""

    def __init__(self) -> None:
        super().__init__()
        self.model = models.build("bert")

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids).logits


@pytest.fixture
def sums(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Each method's sum over two micro-batches, records clipped to a norm."""

    def add_up(norm: float) -> dict[str, dict[str, torch.Tensor]]:
        monkeypatch.setattr(peers, "NORM", norm)
        results = {}
        for name, make in peers.methods(Small()).items():
            method = make()
            for part in (slice(0, 2), slice(2, 6)):
                method.add({"input_ids": models.inputs("bert")[part]}, models.LABELS[part])
            results[name] = {key: value.detach() for key, value in method.total().items()}
        return results

    return add_up


def test_methods_that_train_the_same_add_up_the_same(sums: Any) -> None:
    clipped, whole = sums(0.5), sums(16.0)  # longer than any row
    for results, base in ((clipped, peers.OURS), (whole, peers.BASE)):
        for name in (peers.OURS, *(key for key in results if "on biases" in key)):
            assert results[name].keys() == results[base].keys()
            for key, value in results[base].items():
                assert results[name][key].view_as(value).double().numpy() == pytest.approx(
                    value.double().numpy(), abs=2e-4
                ), (name, key)
    for key, value in whole["non-private full"].items():
        assert torch.allclose(whole["DP full, Opacus hooks"][key], value, atol=1e-4)
        ghost = clipped["DP full, Opacus ghost"][key]
        assert torch.allclose(ghost, clipped["DP full, Opacus hooks"][key], atol=1e-4)


def test_every_method_steps_and_begins_anew() -> None:
    inputs = {"input_ids": models.inputs("bert")}
    for name, make in peers.methods(Small()).items():
        method = make()
        before = {key: value.clone() for key, value in method.model.named_parameters()}
        for _ in range(2):
            method.add(inputs, models.LABELS)
            first = next(iter(method.total().values())).clone()
            method.drop()
            method.add(inputs, models.LABELS)
            assert torch.equal(next(iter(method.total().values())), first), name
            method.step()
        after = dict(method.model.named_parameters())
        assert any(not torch.equal(value, after[key]) for key, value in before.items()), name


def test_the_peak_is_what_was_held_at_once() -> None:
    def step() -> None:
        for _ in range(3):
            torch.zeros(250_000)
        held = [torch.zeros(250_000) for _ in range(2)]
        held.clear()

    assert 2e6 <= measuring.peak(step, CPU) < 2.1e6


def test_a_method_that_fails_leaves_the_others_their_figures() -> None:
    calls: list[int] = []

    def fails() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise torch.OutOfMemoryError

    steps = {"base": lambda: None, "fails": fails}
    times, failed = measuring.in_turn(steps, CPU, repeats=4, until=float("inf"))
    assert failed == {"fails": "out of memory"}
    assert {name: len(taken) for name, taken in times.items()} == {"base": 4}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> shapes.Classifier:
    """What every name of a model stands for."""
    torch.manual_seed(0)
    sizes = {name: value for name, value in models.SHAPE.items() if name != "num_labels"}
    backbone = BertModel(BertConfig(**sizes, vocab_size=20_000), add_pooling_layer=False)
    model = shapes.Classifier(backbone).eval()
    monkeypatch.setattr(shapes, "build", lambda _name, _device: model)
    return model


TOKENS = [[*range(1000, 1003 + 5 * number % 23)] for number in range(20)]


def test_every_method_takes_whole_steps_on_texts_of_uneven_length(
    small: shapes.Classifier,
) -> None:
    records = real_text.texts(TOKENS, small)
    made = real_text.whole_steps(small, records, sampled=9)
    steps = {name: make() for name, make in made.items()}
    times, failed = measuring.in_turn(steps, CPU, repeats=1, until=float("inf"))
    assert set(failed) <= {"torch.func on biases"}  # fails on attention masks of transformers
    assert {real_text.SORTED, peers.OURS, "DP full, Opacus ghost"} <= set(times)
    shares = real_text.shares(small, records, sampled=9)
    assert 0 < shares["padding"] + shares["dummies"] < 1


@pytest.mark.parametrize("loader", [real_text.as_they_come, real_text.length_sorted])
def test_a_loader_gives_each_text_once(loader: Any) -> None:
    lengths = np.array([3 + 5 * number % 23 for number in range(100)])
    sample = np.random.default_rng(0).permutation(100)[:70]
    cut = [*loader(sample, lengths)]
    assert sorted(chain(*cut)) == sorted(sample)
    assert max(map(len, cut)) == real_text.USUAL_BATCH
    if loader is real_text.length_sorted:
        assert [*lengths[[*chain(*cut)]]] == sorted(lengths[sample])


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "cell",
    [
        engine.Cell("batch", "minilm", 4, 8),
        engine.Cell("texts", "minilm"),
        engine.Cell("cpu", "bert-base"),
    ],
    ids=lambda cell: cell.kind,
)
def test_a_cell_has_figures_of_every_method(cell: engine.Cell) -> None:
    options = Namespace(device=CPU, tokens=TOKENS, sampled=6, repeats=1, methods=[""])
    figures = engine.measure(cell, options, until=float("inf"))
    engine.show(cell.name, figures)
    for name, row in figures.items():
        assert "failed" in row or row["time_ratio"] > 0, name
    assert "failed" not in figures.get(peers.OURS, {})


@pytest.mark.parametrize("name", shapes.NAMES[1:])
def test_the_large_models_read_what_they_are_given(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shallow = copy.deepcopy(shapes._CONFIGS[name])
    shallow.num_hidden_layers = 1
    monkeypatch.setitem(shapes._CONFIGS, name, shallow)
    model = shapes.build(name, CPU)
    inputs, labels = shapes.batch(name, 2, 64, CPU)
    assert peers.losses(model, inputs, labels).shape == (2,)
    makes = peers.methods(model)
    sums = []
    for method in (makes[peers.OURS](), makes["Opacus on biases, hooks"]()):
        method.add(inputs, labels)
        sums.append(method.total())
    for key, value in sums[0].items():
        assert torch.allclose(sums[1][key].view_as(value).double(), value, atol=1e-4)


@pytest.mark.parametrize("most", [0, 1, 7, 100])
def test_the_largest_batch_is_found_to_an_eighth(most: int) -> None:
    class Method:
        def drop(self) -> None:
            pass

    def add(_method: Method, records: int) -> None:
        if records > most:
            raise torch.OutOfMemoryError

    fits = engine._largest(Method, add)["records"]
    assert fits <= most <= fits + max(1, fits // 8)


def test_a_table_that_was_cut_off_goes_on(tmp_path: Path, capsys: Any) -> None:
    """Each cell is written as it ends; one that fails, or has no time, is measured later."""
    first, second, third = (engine.Cell("batch", "minilm", n, 8) for n in (1, 2, 3))
    measured: list[str] = []

    def measure(cell: engine.Cell, until: float) -> engine.Figures:
        measured.append(cell.name)
        if measured == [first.name, second.name]:
            raise RuntimeError("broken")
        return {"ours": {"milliseconds": 1.0, "time_ratio": 2.0}}

    file = tmp_path / "engine.json"
    engine.run([first, second], measure, "a machine", float("inf"), file)
    engine.run([first, second], measure, "a machine", 0.0, file)
    engine.run([first, second, third], measure, "a machine", float("inf"), file)
    assert measured == [first.name, second.name, second.name, third.name]
    shown = capsys.readouterr().out
    assert "RuntimeError: broken" in shown
    assert "no time was left" in shown
    with pytest.raises(SystemExit, match="a machine"):
        engine.run([first], measure, "another one", float("inf"), file)
