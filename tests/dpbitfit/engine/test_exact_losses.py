"""With DPZero, too, a unit moves the integer sum by its own clipped row, whatever the biases.

The coordinator chooses the biases, and by the run's name the directions.
"""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dpbitfit.data.tables import Table
from dpbitfit.engine.biases import read_biases, write_biases
from dpbitfit.engine.clipping import AbadiClipping, AutomaticClipping
from dpbitfit.engine.directions import Directions
from dpbitfit.engine.noise import DiscreteGaussianNoise
from dpbitfit.engine.training import clipped_sum
from dpbitfit.phases import DpZeroPhase
from dpbitfit.tasks.attach import attach
from dpbitfit.tasks.registry import read_settings
from dpbitfit.tasks.text_classification.records import TextRecords
from dpbitfit.tasks.text_classification.task import TextClassification

from ...support.hostile_biases import cancelling, overflowing_at_padding
from ...support.tasks import text_table
from ..tasks.test_text_classification import LABELS, WORDS, save
from .test_exact_rows import ARCHITECTURES, people

PHASE = DpZeroPhase(noise=DiscreteGaussianNoise(multiplier=1.0))
PHASE = PHASE.changed(estimator=PHASE.estimator.changed(directions=3))


def by_losses(folder: str, head: str, **options: object) -> TextClassification:
    values = read_settings(TextClassification, {"head": head, **options})
    task = attach(TextClassification, folder, values, LABELS, needs_gradients=False)
    assert isinstance(task, TextClassification)
    return task


@pytest.fixture(scope="module", params=["bert", "gpt2", "deberta-v2", "opt"])
def task(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> TextClassification:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param)
    return by_losses(save(ARCHITECTURES[request.param](), folder), "trained")


def integer_sum(
    task: TextClassification,
    records: TextRecords,
    units: Sequence[int],
    phase: DpZeroPhase,
    seed: bytes = bytes(32),
) -> NDArray[np.int64]:
    """The units' clipped sum [K] on the grid."""
    noise = phase.noise.source(phase.clipping.sensitivity)
    sample = np.array(units, dtype=np.int64)
    with phase.estimator.attach(task.model, task.layout, Directions(seed)) as estimator:
        return clipped_sum(task.model, estimator, records, sample, phase.clipping, noise, 200)


@settings(max_examples=6, deadline=None)
@given(
    examples=people(),
    scale=st.sampled_from([0.0, 1.0, 30.0, 1e4, 1e10, 1e18, 1e30, 3e38]),
    seed=st.binary(min_size=32, max_size=32),
    clipping=st.sampled_from([AbadiClipping, AutomaticClipping]),
    norm=st.sampled_from([1e-2, 1.0, 8.0]),
    smoothing=st.sampled_from([1e-5, 1e-3, 0.1]),
)
def test_adding_a_unit_moves_the_sum_by_its_own_row_and_nothing_else(
    task: TextClassification,
    examples: Table,
    scale: float,
    seed: bytes,
    clipping: type[AbadiClipping],
    norm: float,
    smoothing: float,
) -> None:
    own = read_biases(task.model, task.layout)
    moves = np.random.default_rng(list(seed)).uniform(-1, 1, own.size) * scale
    records = task.records(examples)
    joins = len(records.units) - 1
    estimator = PHASE.estimator.changed(smoothing=smoothing)
    phase = PHASE.changed(clipping=clipping(norm=norm), estimator=estimator)
    try:
        write_biases(task.model, task.layout, (own + moves).astype(np.float32))
        whole = integer_sum(task, records, range(joins + 1), phase, seed)
        without = integer_sum(task, records, range(joins), phase, seed)
        alone = integer_sum(task, records, [joins], phase, seed)
    finally:
        write_biases(task.model, task.layout, own)
    assert (whole - without == alone).all()
    assert np.linalg.norm(alone * phase.noise.source(norm).step) <= norm


def test_hostile_biases_gain_nothing() -> None:
    """Both attacks on version 0.1 against gradients."""
    minilm = by_losses("minilm", "labels", max_length=64)
    companions, canary = 8, "hello my pension is eight days late so please answer me soon thanks"
    texts = [f"my {word} is the new rate of the loan" for word in WORDS[2:6] * 2]
    labels = np.arange(companions + 1) % 2
    records = minilm.records(text_table([*texts, canary], labels))
    assert records.lengths[-1] > records.lengths[:-1].max()
    chosen = [overflowing_at_padding(minilm, texts), cancelling(minilm, 1e4)]
    for biases in (minilm.pretrained, *chosen):
        write_biases(minilm.model, minilm.layout, biases)
        whole = integer_sum(minilm, records, range(companions + 1), PHASE)
        without = integer_sum(minilm, records, range(companions), PHASE)
        alone = integer_sum(minilm, records, [companions], PHASE)
        assert (whole - without == alone).all()
