"""A model of which no bias has a gradient of one record: DPZero trains it all the same."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dpbitfit.data.tables import Table
from dpbitfit.engine.directions import Directions
from dpbitfit.engine.noise import FastInsecureNoise
from dpbitfit.engine.optimizers import OptimizerState, Sgd
from dpbitfit.errors import ModelError
from dpbitfit.phases import DpZeroPhase
from dpbitfit.tasks.attach import attach
from dpbitfit.tasks.features import FeatureCache
from dpbitfit.tasks.rounds import RoundStart, site_round

from ...support.slope import Records, Slope, SlopeSettings


class Recurrent(nn.Module):
    """A recurrent layer, whose kernel adds its biases within."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.GRU(1, width, batch_first=True)
        self.last = nn.Linear(width, 1, bias=False)

    def forward(self, numbers: Tensor) -> Tensor:
        return self.last(self.layer(numbers.unsqueeze(1))[0][:, -1])


class RecurrentSlope(Slope):
    @classmethod
    def load(cls, folder: str, settings: SlopeSettings, labels: Sequence[str]) -> Self:
        torch.manual_seed(0)
        return cls(Recurrent(settings.units), settings.units)


def loaded(needs_gradients: bool) -> RecurrentSlope:
    task = attach(RecurrentSlope, "", SlopeSettings(), (), needs_gradients=needs_gradients)
    assert isinstance(task, RecurrentSlope)
    return task


def test_by_gradients_it_is_refused() -> None:
    with pytest.raises(ModelError, match=r"soundly; layer\.bias_ih_l0: no layer adds"):
        loaded(needs_gradients=True)


def test_by_losses_it_learns() -> None:
    task = loaded(needs_gradients=False)
    assert set(task.layout.names) == {"layer.bias_ih_l0", "layer.bias_hh_l0"}
    numbers = np.linspace(-1, 1, 40)
    records: Records = task.records(Table({"x": [*numbers], "y": [*(0.3 * numbers + 0.5)]}))
    phase: Any = DpZeroPhase(
        noise=FastInsecureNoise(multiplier=0.05),
        rounds=1,
        steps_per_round=30,
        sampling_rate=1.0,
        optimizer=Sgd(learning_rate=0.3),
    )
    phase = phase.changed(estimator=phase.estimator.changed(directions=8))
    before = task.evaluate(records)["error"].mean()
    start = RoundStart(phase, 40, task.pretrained, OptimizerState(), Directions(bytes(32)))
    released, _ = site_round(task, records, FeatureCache(task, records), start)
    assert len(released) == 30 * 8
    assert task.evaluate(records)["error"].mean() < 0.5 * before
