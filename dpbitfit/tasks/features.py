"""What a model makes of records below its linear head, computed once while that stays the same."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpbitfit.engine.biases import write_biases
from dpbitfit.engine.linear_head import LinearHead, on_grid
from dpbitfit.errors import InputError
from dpbitfit.tasks.base import LinearTask, Progress, Task

MOST_BYTES = 1 << 30  # kept between rounds; more is computed anew in each


@dataclass(frozen=True)
class Features:
    """Records as a head sees them: features [n, d] on their grid, classes [n]."""

    rows: NDArray[np.int32]
    classes: NDArray[np.int64]


class FeatureCache:
    """The features of one set of records under the last biases; in memory only."""

    def __init__(self, task: Task, records: Any) -> None:
        self._task = task
        self._records = records
        self._digest = ""
        self._features: Features | None = None

    def find(self, vector: NDArray[np.float32], progress: Progress | None = None) -> Features:
        """The features under the packed ``vector`` [P]; ``progress`` may end their computation.

        Each is a function of its record and the vector alone, to the bit. Raises InputError
        where the task has no linear head.
        """
        task, head = trained_head(self._task)
        digest = hashlib.sha256(np.delete(vector, _places(head)).tobytes()).hexdigest()
        if self._features is not None and digest == self._digest:
            return self._features
        self.drop()
        write_biases(task.model, task.layout, vector)
        rows = on_grid(task.features(self._records, progress))
        features = Features(rows, task.classes(self._records))
        if rows.nbytes <= MOST_BYTES:
            self._digest, self._features = digest, features
        return features

    def drop(self) -> None:
        """Free the memory."""
        self._digest, self._features = "", None


def trained_head(task: Task) -> tuple[LinearTask, LinearHead]:
    """A task with its trained linear head; InputError where it has none."""
    if isinstance(task, LinearTask) and task.linear_head is not None:
        return task, task.linear_head
    raise InputError(
        "the plan's phase trains a head alone, and this task trains no linear head: leave the "
        "phase out, or let the task train one (for text, head=trained)"
    )


def _places(head: LinearHead) -> NDArray[np.int64]:
    """Where in the packed vector the head is: what the features do not depend on."""
    parts = [head.weight, *([head.bias] if head.bias else [])]
    return np.concatenate([np.arange(part.start, part.stop) for part in parts])
