"""Tokenised texts as the training loop sees them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from dpbitfit.engine.batches import padded_length

if TYPE_CHECKING:
    from dpbitfit.tasks.text_classification.task import TextClassification


class TextRecords:
    """One site's tokenised records: a ``training.PrivateRecords``.

    ``labels`` [n] are positions in the label set; ``units`` the records of each unit.
    """

    def __init__(
        self,
        task: "TextClassification",
        tokens: Sequence[Sequence[int]],
        labels: Sequence[int],
        units: Sequence[NDArray[np.int64]],
    ) -> None:
        self._task = task
        self.tokens = tokens
        self.labels = torch.tensor(labels, dtype=torch.long)
        self.units = units
        self.lengths = np.array(
            [padded_length(len(ids), task.positions) for ids in tokens], dtype=np.int64
        )

    @property
    def canonical_rows(self) -> int:
        """Of how many rows a micro-batch is a whole multiple."""
        return self._task.canonical_rows

    def inputs(self, records: Sequence[int]) -> dict[str, Tensor]:
        """What the model reads [B, T] of some records of one padded length."""
        return self._task.pad([self.tokens[i] for i in records])

    def losses(self, model: nn.Module, records: Sequence[int]) -> Tensor:
        """Cross-entropy [B] of some records of one padded length, one for each."""
        logits = model(**self.inputs(records))
        labels = self.labels[list(records)].to(logits.device)
        return functional.cross_entropy(logits.float(), labels, reduction="none")
