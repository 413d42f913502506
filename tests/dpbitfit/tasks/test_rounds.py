"""A round of any phase on a task: which features it sees, what it releases, what stays."""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from dpbitfit.data.tables import Table
from dpbitfit.engine.linear_head import LinearHead
from dpbitfit.engine.noise import FastInsecureNoise
from dpbitfit.engine.optimizers import OptimizerState
from dpbitfit.errors import InputError
from dpbitfit.phases import BiasPhase, ClassSums, HeadDescent
from dpbitfit.tasks import features
from dpbitfit.tasks.features import FeatureCache
from dpbitfit.tasks.rounds import RoundStart, site_round
from dpbitfit.tasks.text_classification.task import TextClassification

from ...support.tasks import load_text

QUIET = FastInsecureNoise(multiplier=0.01)
LABELS = ("card", "loan", "transfer")
TEXTS = ["my card is lost", "what is the rate of a loan", "send money abroad", "the loan is due"]


@functools.cache
def task(head: str = "trained") -> TextClassification:
    return load_text("minilm", LABELS, head, private=False, max_length=16)


@dataclass
class Counted:
    """A task that counts how often features are computed."""

    inner: TextClassification
    computed: int = 0

    def features(self, *arguments: Any) -> np.ndarray:
        self.computed += 1
        return self.inner.features(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def records() -> Any:
    return task().records(Table({"text": TEXTS, "label": [0, 1, 2, 1]}))


def head() -> LinearHead:
    result = task().linear_head
    assert result is not None
    return result


def test_a_heads_features_and_weights_give_the_models_own_logits() -> None:
    rows = task().features(records())
    vector = task().pretrained
    logits = head().scale * rows @ head().weights(vector).T
    assert logits == pytest.approx(task().logits(records()).numpy(), abs=1e-4)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(len(TEXTS)), abs=1e-5)


def test_features_are_computed_once_while_only_the_head_changes() -> None:
    counted = Counted(task())
    cache = FeatureCache(counted, records())  # type: ignore[arg-type]
    vector = task().pretrained.copy()
    first = cache.find(vector).rows
    vector[head().weight] += 1.0
    assert cache.find(vector).rows is first
    assert counted.computed == 1


def test_features_of_other_biases_are_never_used() -> None:
    counted = Counted(task())
    cache = FeatureCache(counted, records())  # type: ignore[arg-type]
    vector = task().pretrained.copy()
    before = cache.find(vector).rows
    outside = np.delete(np.arange(len(vector)), np.r_[head().weight])
    vector[outside] += 0.2
    after = cache.find(vector).rows
    assert counted.computed == 2
    assert (before != after).any()
    assert (FeatureCache(task(), records()).find(vector).rows == after).all()


def test_features_that_take_too_much_memory_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "MOST_BYTES", 10)
    counted = Counted(task())
    cache = FeatureCache(counted, records())  # type: ignore[arg-type]
    assert (cache.find(task().pretrained).rows == cache.find(task().pretrained).rows).all()
    assert counted.computed == 2


def test_a_phase_of_biases_drops_the_features() -> None:
    counted = Counted(task())
    part = records()
    cache = FeatureCache(counted, part)  # type: ignore[arg-type]
    cache.find(task().pretrained)
    phase = BiasPhase(noise=QUIET, rounds=1, steps_per_round=1, sampling_rate=1.0)
    site_round(task(), part, cache, RoundStart(phase, 4, task().pretrained, OptimizerState()))
    cache.find(task().pretrained)
    assert counted.computed == 2


@pytest.mark.parametrize("phase", [ClassSums(noise=QUIET), HeadDescent(noise=QUIET)])
def test_a_phase_of_the_head_releases_a_noised_sum_over_all_units(
    phase: ClassSums | HeadDescent,
) -> None:
    part = records()
    cache = FeatureCache(task(), part)
    start = RoundStart(phase, 4, task().pretrained, OptimizerState())
    first, second = (site_round(task(), part, cache, start)[0] for _ in range(2))
    assert first.shape == (len(LABELS) * head().width,)
    assert (first != second).any()  # fresh noise
    deviation = 0.01 * phase.norm * np.sqrt(2)
    assert (first - second).std() == pytest.approx(deviation, rel=0.2)
    if isinstance(phase, ClassSums):
        rows = task().features(part)
        wanted = np.array([rows[[0]].sum(0), rows[[1, 3]].sum(0), rows[[2]].sum(0)])
        assert first.reshape(wanted.shape) == pytest.approx(wanted, abs=0.1)


def test_biases_alone_leave_the_head() -> None:
    part, vector = records(), task().pretrained.copy()
    vector[head().weight] += 0.5
    phase = BiasPhase(noise=QUIET, trains="biases", rounds=1, steps_per_round=1, sampling_rate=1.0)
    cache = FeatureCache(task(), part)
    change, _ = site_round(task(), part, cache, RoundStart(phase, 4, vector, OptimizerState()))
    assert change.size == vector.size - len(LABELS) * head().width
    weight = task().model.head.weight.detach().numpy()  # type: ignore[union-attr]
    assert weight == pytest.approx(head().weights(vector))


def test_a_fixed_head_has_no_phase_of_its_own() -> None:
    fixed = task("labels")
    part = fixed.records(Table({"text": TEXTS, "label": [0, 1, 2, 1]}))
    start = RoundStart(ClassSums(noise=QUIET), 4, fixed.pretrained, OptimizerState())
    with pytest.raises(InputError, match="no linear head"):
        site_round(fixed, part, FeatureCache(fixed, part), start)


def test_features_that_are_not_finite_contribute_nothing() -> None:
    vector = task().pretrained.copy()
    outside = np.delete(np.arange(len(vector)), np.r_[head().weight])
    vector[outside] = 3e38
    part = records()
    start = RoundStart(ClassSums(noise=QUIET), 4, vector, OptimizerState())
    released, _ = site_round(task(), part, FeatureCache(task(), part), start)
    assert np.abs(released).max() < 0.01 * 6
