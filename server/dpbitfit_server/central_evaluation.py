"""The coordinator's own copy of the model, and how it does on public test data.

The only file of the server that needs torch.
"""

from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, MetricRecord
from numpy.typing import NDArray
from safetensors.numpy import save_file

from dpbitfit.data.partition import hold_out
from dpbitfit.data.tables import Examples, read_examples, read_labels
from dpbitfit.engine.biases import read_biases, write_biases
from dpbitfit.protocol import codec
from dpbitfit.tasks.text_classification import TextTask
from dpbitfit_server.settings import Settings


class PublicEvaluation:
    """Accuracy and loss of given biases on the public test records."""

    def __init__(self, settings: Settings) -> None:
        labels = read_labels(settings.labels)
        self.task = TextTask.load(
            settings.model, labels, settings.head, settings.logit_scale, settings.max_length
        )
        self._test = self.task.records(_test_records(settings, labels))
        self.initial = read_biases(self.task.model, self.task.layout)  # [P]

    def __call__(self, _round: int, arrays: ArrayRecord) -> MetricRecord:
        """Evaluate one packed vector: Flower's ``evaluate_fn``."""
        self._load(codec.decode(arrays, self.task.layout.size))
        correct, losses = self.task.score(self._test)
        return MetricRecord({"accuracy": correct.mean().item(), "loss": losses.mean().item()})

    @property
    def parameters(self) -> int:
        """Every parameter of the model, frozen ones too."""
        return sum(parameter.numel() for parameter in self.task.model.parameters())

    def save(self, folder: Path, biases: NDArray[np.float32]) -> None:
        """Write ``model/`` in Hugging Face's format, and ``biases.safetensors``."""
        self._load(biases)
        self.task.save(folder / "model")
        trained = {
            name: biases[place].reshape(shape) for name, shape, place in self.task.layout.slices()
        }
        save_file(trained, folder / "biases.safetensors")

    def _load(self, biases: NDArray[np.float32]) -> None:
        write_biases(self.task.model, self.task.layout, biases)


def _test_records(settings: Settings, labels: tuple[str, ...]) -> Examples:
    columns = (settings.text_column, settings.label_column, labels, settings.unit_column or None)
    if settings.test_data:
        return read_examples(settings.test_data, *columns[:3])
    _, test = hold_out(
        read_examples(settings.data, *columns), settings.test_fraction, settings.seed
    )
    return test
