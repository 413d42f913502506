"""Adding a unit moves the integer sum by exactly its own clipped row, whatever the biases.

A coordinator chooses the biases. With those of ``hostile_biases`` version 0.1 moved the sum by
9 to 127 clipping norms: padding that followed the longest companion, and rounding that followed
the size of a batch, made one record's row depend on the others.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from random import sample
from string import ascii_letters
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2Model,
    RobertaConfig,
    RobertaModel,
)

from dpbitfit.data.tables import Table
from dpbitfit.engine.batches import filled
from dpbitfit.engine.biases import read_biases, write_biases
from dpbitfit.engine.determinism import deterministic
from dpbitfit.engine.gradients import PerRecordGradients
from dpbitfit.engine.noise import DiscreteGaussian
from dpbitfit.engine.optimizers import OptimizerState
from dpbitfit.engine.training import clipped_sum
from dpbitfit.phases import BiasPhase, ClassSums, Phase
from dpbitfit.tasks.features import FeatureCache
from dpbitfit.tasks.rounds import RoundStart, site_round
from dpbitfit.tasks.text_classification.records import TextRecords
from dpbitfit.tasks.text_classification.task import TextClassification

from ...support import plans
from ...support.backbones import backbone
from ...support.bfloat16 import units_for_bfloat16
from ...support.hostile_biases import cancelling, overflowing_at_padding
from ...support.saved_models import save_small
from ...support.tasks import load_text, text_table
from ..tasks.test_text_classification import LABELS, SMALL, WORDS, save

PHASE = plans.phase(
    noise_multiplier=1.0,
    sampling_rate=1.0,
    rounds=1,
    steps_per_round=1,
)
SHAPE: dict[str, Any] = {**SMALL, "intermediate_size": 24}
ARCHITECTURES: dict[str, Callable[[], torch.nn.Module]] = {
    "bert": lambda: BertModel(BertConfig(**SHAPE)),
    "roberta": lambda: RobertaModel(RobertaConfig(**SHAPE, max_position_embeddings=64)),
    "distilbert": lambda: DistilBertModel(
        DistilBertConfig(dim=16, n_layers=2, n_heads=2, hidden_dim=24, vocab_size=20)
    ),
    "gpt2": lambda: GPT2Model(
        GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=20, n_positions=64)
    ),
    # Of these some biases are left out.
    **{name: partial(backbone, name) for name in ("deberta-v2", "opt", "longformer")},
    # Of these the last layer trains alone.
    **{f"{name}, last layer": partial(backbone, name) for name in ("bert", "longformer")},
}
ARCHITECTURES |= {f"{name}, bfloat16": ARCHITECTURES[name] for name in ("bert", "gpt2")}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def task(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> TextClassification:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param)
    layers = int(request.param.endswith("last layer"))
    model = save(ARCHITECTURES[request.param](), folder)
    if not request.param.endswith("bfloat16"):
        return load_text(model, LABELS, "trained", layers=layers)
    with units_for_bfloat16():
        return load_text(model, LABELS, "trained", "bfloat16")


def integer_sum(
    task: TextClassification, records: TextRecords, units: Sequence[int], phase: BiasPhase
) -> NDArray[np.int64]:
    """The units' clipped sum [P] on the grid."""
    clipper = phase.clipping.attach(task.model, task.layout)
    noise = phase.noise.source(clipper.sensitivity)
    sample = np.array(units, dtype=np.int64)
    records.prepare()
    with deterministic(), phase.estimator.attach(task.model, task.layout) as estimator:
        return clipped_sum(task.model, estimator, records, sample, clipper, noise, 200)


@st.composite
def people(draw: st.DrawFn) -> Table:
    """Records of one to several people, each of one or more; the last one is who joins."""
    texts, owners = [], []
    for person in range(draw(st.integers(2, 5))):
        for _ in range(draw(st.integers(1, 3))):
            words = draw(st.lists(st.sampled_from(WORDS[2:]), min_size=1, max_size=18))
            texts.append(" ".join(words))
            owners.append(str(person))
    labels = draw(st.lists(st.integers(0, 1), min_size=len(texts), max_size=len(texts)))
    return text_table(texts, np.array(labels), owners)


ADDING = "test_adding_a_unit_moves_the_sum_by_its_own_row_and_nothing_else"


@settings(max_examples=10, deadline=None)
@given(
    examples=people(),
    scale=st.sampled_from([0.0, 1e-3, 1.0, 30.0, 1e4, 1e10, 1e18, 1e30, 3e38]),
    seed=st.integers(0, 2**32 - 1),
    clipping=st.sampled_from(["abadi", "automatic", "group-wise", "adaptive"]),
    norm=st.sampled_from([1e-2, 1.0, 8.0]),
)
def test_adding_a_unit_moves_the_sum_by_its_own_row_and_nothing_else(
    task: TextClassification, examples: Table, scale: float, seed: int, clipping: str, norm: float
) -> None:
    own = read_biases(task.model, task.layout)
    moves = np.random.default_rng(seed).uniform(-1, 1, own.size) * scale
    records = task.records(examples)
    joins = len(records.units) - 1
    phase = plans.phase(PHASE, clipping=clipping, clipping_norm=norm)
    try:
        write_biases(task.model, task.layout, (own + moves).astype(np.float32))
        whole = integer_sum(task, records, range(joins + 1), phase)
        without = integer_sum(task, records, range(joins), phase)
        alone = integer_sum(task, records, [joins], phase)
        scores = task.evaluate(records)
        fewer = task.evaluate(task.records(examples.take(records.units[joins])))
    finally:
        write_biases(task.model, task.layout, own)
    assert (whole - without == alone).all()
    sensitivity = phase.clipping.sensitivity
    step = DiscreteGaussian(sensitivity, 1.0).step
    assert np.linalg.norm(alone * step) <= sensitivity
    for value, again in zip(scores.values(), fewer.values(), strict=True):
        np.testing.assert_array_equal(value[records.units[joins]], again)


@pytest.mark.parametrize("threads", [1, 2])
def test_hostile_biases_gain_nothing(threads: int) -> None:
    """Both attacks on version 0.1, flat and by groups, in sums and in evaluations."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        check_hostile_biases(load_text("minilm", LABELS, "labels", max_length=64))
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def threads() -> Iterator[int]:
    """As many threads as part a tensor where no vector of a CPU ends."""
    before = torch.get_num_threads()
    torch.set_num_threads(16)
    yield 16
    torch.set_num_threads(before)


def test_rows_do_not_follow_from_where_threads_part_a_tensor(threads: int, tmp_path: Path) -> None:
    """An activation of exponentials, wide enough for several threads: 4 % of its values differ."""
    torch.manual_seed(0)
    shape = {**SMALL, "hidden_size": 64, "intermediate_size": 1024}
    model = BertModel(BertConfig(**shape, hidden_act="silu"))
    task = load_text(save(model, tmp_path), LABELS, "trained", max_length=32)
    draw = np.random.default_rng(0)
    texts = [" ".join(draw.choice(WORDS[2:], 26)) for _ in range(24)]
    records = task.records(text_table(texts, [0] * len(texts)))
    assert (records.lengths == 28).all()  # of which the check on attaching has none
    with deterministic(), PerRecordGradients(task.model, task.layout) as gradients:
        alone: dict[int, torch.Tensor] = {}
        for count in range(1, len(texts) + 1):
            batch = filled(range(count), task.canonical_rows)
            rows = gradients.rows(partial(records.losses, task.model, batch), len(batch))
            for record, row in zip(batch, rows, strict=True):
                assert torch.equal(row, alone.setdefault(record, row)), (count, record)
    assert torch.get_num_threads() == threads


def test_whatever_reads_records_computes_on_one_thread(threads: int, tmp_path: Path) -> None:
    """Rounds of each kind, features, and evaluations."""
    torch.manual_seed(0)
    task = load_text(save(ARCHITECTURES["bert"](), tmp_path), LABELS, "trained")
    records = task.records(text_table(["the card is lost"] * 4, [0] * 4))
    layer = next(m for m in task.model.modules() if isinstance(m, torch.nn.Linear))
    seen, cache = list[int](), FeatureCache(task, records)
    layer.register_forward_pre_hook(lambda *_: seen.append(torch.get_num_threads()))

    def work_in(phase: Phase) -> None:
        site_round(task, records, cache, RoundStart(phase, 4, task.pretrained, OptimizerState()))

    for work in (
        lambda: work_in(PHASE),
        lambda: work_in(ClassSums(noise=PHASE.noise)),
        lambda: task.features(records),
        lambda: task.evaluate(records),
    ):
        seen.clear()
        work()
        assert set(seen) == {1}
        assert torch.get_num_threads() == threads


def test_a_sites_own_features_are_computed_on_one_thread(threads: int, tmp_path: Path) -> None:
    """By a task that does not see to it itself."""
    torch.manual_seed(0)
    task = load_text(save(ARCHITECTURES["bert"](), tmp_path), LABELS, "trained")
    records = task.records(text_table(["the card is lost"] * 4, [0] * 4))
    rows, seen = task.features(records), list[int]()

    def own(*_: Any) -> NDArray[np.float32]:
        seen.append(torch.get_num_threads())
        return rows

    task.features = own  # type: ignore[method-assign]
    start = RoundStart(ClassSums(noise=PHASE.noise), 4, task.pretrained, OptimizerState())
    site_round(task, records, FeatureCache(task, records), start)
    assert seen == [1]
    assert torch.get_num_threads() == threads


def test_a_row_is_the_same_beside_a_record_that_is_padded(tmp_path: Path) -> None:
    """Without any of which transformers leaves the mask out, and torch takes another way."""
    task = load_text(save_small("qwen2, grouped queries", tmp_path), LABELS, max_length=64)
    texts = ["".join(sample(ascii_letters, tokens)) for tokens in (48, 48, 47)]
    records = task.records(text_table(texts, [0, 1, 0]))
    assert set(records.lengths) == {48}
    with deterministic(), PerRecordGradients(task.model, task.layout) as gradients:
        full, mixed = (
            gradients.rows(lambda: records.losses(task.model, batch), len(batch))  # noqa: B023
            for batch in ([0, 1], [0, 2])
        )
    assert torch.equal(full[0], mixed[0])


def test_without_mkls_strict_mode_rows_are_exact_at_canonical_sizes() -> None:
    """As on a CPU that has it not. MKL reads the mode once, so that this is another process."""
    tests = ["test_hostile_biases_gain_nothing[1]", f"{ADDING}[bert]"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        + [f"{__file__}::{test}" for test in tests],
        env={**os.environ, "MKL_CBWR": "OFF"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def check_hostile_biases(minilm: TextClassification) -> None:
    companions, canary = 24, "hello my pension is eight days late so please answer me soon thanks"
    texts = ["the card is lost and the loan is new"] * 4 + [
        f"my {word} is the new rate of the loan" for word in WORDS[2:7] * 4
    ]
    labels = np.arange(companions + 1) % 2
    records = minilm.records(text_table([*texts, canary], labels))
    assert records.lengths[-1] > records.lengths[:-1].max()
    chosen = [overflowing_at_padding(minilm, texts)]
    chosen += [cancelling(minilm, scale) for scale in (1e2, 1e4, 1e6)]
    for biases in (minilm.pretrained, *chosen):
        write_biases(minilm.model, minilm.layout, biases)
        for clipping in ("abadi", "adaptive"):
            phase = plans.phase(PHASE, clipping=clipping)
            whole = integer_sum(minilm, records, range(companions + 1), phase)
            without = integer_sum(minilm, records, range(companions), phase)
            alone = integer_sum(minilm, records, [companions], phase)
            assert (whole - without == alone).all()
        together = minilm.evaluate(records)
        apart = minilm.evaluate(minilm.records(text_table(texts, labels[:-1])))
        for value, again in zip(together.values(), apart.values(), strict=True):
            np.testing.assert_array_equal(value[:-1], again)
