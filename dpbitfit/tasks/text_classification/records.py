"""Tokenised texts as the training loop sees them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from dpbitfit.engine.batches import padded_length
from dpbitfit.tasks.base import Progress
from dpbitfit.tasks.evaluation import outputs
from dpbitfit.tasks.features import MOST_BYTES

if TYPE_CHECKING:
    from dpbitfit.tasks.text_classification.layers import UpperLayers
    from dpbitfit.tasks.text_classification.task import TextClassification


class TextRecords:
    """One site's tokenised records: a ``training.PrivateRecords``.

    ``labels`` [n] are positions in the label set; ``units`` the records of each unit. With
    ``upper`` layers that can go on by themselves, what is below them is computed once.
    """

    def __init__(
        self,
        task: "TextClassification",
        tokens: Sequence[Sequence[int]],
        labels: Sequence[int],
        units: Sequence[NDArray[np.int64]],
        upper: "UpperLayers | None" = None,
    ) -> None:
        self._task = task
        self.tokens = tokens
        self.labels = torch.tensor(labels, dtype=torch.long)
        self.units = units
        self.lengths = np.array(
            [padded_length(len(ids), task.positions) for ids in tokens], dtype=np.int64
        )
        self._upper = upper
        self._states: list[Tensor] = []  # of each record [T, d], when there are any

    @property
    def canonical_rows(self) -> int:
        """Of how many rows a micro-batch is a whole multiple."""
        return self._task.canonical_rows

    def inputs(self, records: Sequence[int]) -> dict[str, Tensor]:
        """What the model reads [B, T] of some records of one padded length.

        With it, where layers go on by themselves, the states [B, T, d] that enter them.
        """
        inputs = self._padded(records)
        if self._states:
            below = torch.stack([self._states[i] for i in records])
            inputs["below"] = below.to(inputs["input_ids"].device)
        elif self._upper is not None:
            # The same steps: whether the states of all records fit the memory follows from all.
            with torch.no_grad():
                below = self._upper.states(**inputs)
            inputs["below"] = below.to(inputs["input_ids"].device)
        return inputs

    def _padded(self, records: Sequence[int]) -> dict[str, Tensor]:
        return self._task.pad([self.tokens[i] for i in records])

    def prepare(self, progress: Progress | None = None) -> None:
        """Compute the states that are kept, once; those that take too much memory never are.

        Each is a function of its record alone, to the bit. ``progress`` may end it.
        """
        upper = self._upper
        if self._states or upper is None:
            return
        if 4 * int(self.lengths.sum()) * upper.width > MOST_BYTES:
            return
        states: list[Tensor] = [torch.empty(0)] * len(self.tokens)
        forward = lambda batch: upper.states(**self._padded(batch))  # noqa: E731
        not_begun = progress and (lambda _done, _total: progress(0, 1))
        for batch, rows in outputs(self._task.model, self, forward, not_begun):
            for record, row in zip(batch, rows, strict=True):
                states[record] = row
        self._states = states

    def losses(self, model: nn.Module, records: Sequence[int]) -> Tensor:
        """Cross-entropy [B] of some records of one padded length, one for each."""
        logits = model(**self.inputs(records))
        labels = self.labels[list(records)].to(logits.device)
        return functional.cross_entropy(logits.float(), labels, reduction="none")
