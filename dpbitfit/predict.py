"""Answers of a trained model: a folder that a run has written, or an adapter on its base."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dpbitfit.data.columns import Kind, read_column
from dpbitfit.errors import InputError
from dpbitfit.tasks.text_classification.records import TextRecords
from dpbitfit.tasks.text_classification.task import TextClassification


class Prediction(NamedTuple):
    """The best label of a text, and its probability."""

    label: str
    score: float


class Predictor:
    """A trained text classifier, which answers with the same numbers as in training."""

    def __init__(self, task: TextClassification) -> None:
        self._task = task

    @property
    def labels(self) -> tuple[str, ...]:
        """The label set, in the order of the columns of ``probabilities``."""
        return self._task.labels

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """The probability [n, K] of each label for each text.

        Raises InputError for one text that is in no list, and for an empty one, with its number.
        """
        if isinstance(texts, str):
            raise InputError(f"texts must be a list of texts: [{texts[:20]!r}]")
        read = read_column("the texts", "text", list(texts), Kind.TEXT, self.labels)
        records = TextRecords(self._task, self._task.tokens(read), [0] * len(read), [])
        shares: NDArray[np.float64] = self._task.logits(records).double().softmax(dim=1).numpy()
        return shares

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        """The best label of each text; raises as ``probabilities``."""
        shares = self.probabilities(texts)
        best = shares.argmax(axis=1)
        return [
            Prediction(self.labels[place], float(row[place]))
            for place, row in zip(best, shares, strict=True)
        ]


def load(folder: str | Path, base: str | Path = "") -> Predictor:
    """The result in ``folder``: a run's ``model``, or its ``adapter`` on the model ``base``.

    Only safetensors are read, never code. Raises InputError where a file is missing or was
    changed, where the base is another than the adapter was trained on, and where the answers
    are not those that were stored with it.
    """
    return Predictor(TextClassification.restore(str(folder), str(base)))
