"""The coordinator's own copy of the model, and how it does on public test data.

The only file of the server that needs torch.
"""

from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, MetricRecord
from numpy.typing import NDArray

from dpbitfit.data.run_data import RunData
from dpbitfit.engine.biases import write_biases
from dpbitfit.engine.linear_head import LinearHead
from dpbitfit.planner import PublicFacts
from dpbitfit.protocol import flower
from dpbitfit.settings import RunSettings
from dpbitfit.tasks.attach import attach
from dpbitfit.tasks.base import LinearTask
from dpbitfit.tasks.registry import resolve


class PublicEvaluation:
    """The task's metrics of given biases on the public test records."""

    def __init__(self, settings: RunSettings) -> None:
        self._settings = settings
        data = RunData.of(settings.run)
        kind = resolve(settings.run.task, {})
        self.task = attach(
            kind,
            settings.run.model,
            settings.task,
            data.label_set(),
            needs_gradients=settings.needs_gradients,
            private=False,  # its test records are public
        )
        self._test = self.task.records(data.test(kind.columns))

    def __call__(self, _round: int, arrays: ArrayRecord) -> MetricRecord:
        """Evaluate one packed vector: Flower's ``evaluate_fn``."""
        self._load(flower.from_arrays(arrays, self.task.layout.size))
        values = self.task.evaluate(self._test)
        return MetricRecord({name: values[name].mean().item() for name in self.task.metrics})

    @property
    def linear_head(self) -> LinearHead | None:
        """Where the task's linear head lies in the packed vector, if it trains one."""
        return self.task.linear_head if isinstance(self.task, LinearTask) else None

    @property
    def facts(self) -> PublicFacts:
        """What a plan follows from."""
        head = self.linear_head
        labels, width = (head.classes, head.width) if head else (0, 0)
        return self._settings.facts(labels, width)

    @property
    def parameters(self) -> int:
        """Every parameter of the model, frozen ones too."""
        return sum(parameter.numel() for parameter in self.task.model.parameters())

    def save(self, folder: Path, biases: NDArray[np.float32]) -> None:
        """Write the trained model to ``model/``, and what trained alone to ``adapter/``."""
        self._load(biases)
        self.task.save(folder / "model")
        self.task.save_adapter(folder / "adapter")

    def _load(self, biases: NDArray[np.float32]) -> None:
        write_biases(self.task.model, self.task.layout, biases)
