"""Records of random tokens, as the training loop sees them, for the small models of ``models``."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from . import models


class Records:
    """Random token ids [T] of each record, which ``losses`` reads."""

    def __init__(self, lengths: Sequence[int], people: int = 0, canonical_rows: int = 1) -> None:
        generator = torch.Generator().manual_seed(0)
        self.ids = [torch.randint(2, 48, (length,), generator=generator) for length in lengths]
        self.lengths = np.array(lengths)
        self.canonical_rows = canonical_rows
        people = people or len(lengths)
        self.units = [np.arange(start, len(lengths), people) for start in range(people)]

    def logits(self, model: nn.Module, records: Sequence[int]) -> Tensor:
        logits: Tensor = model(torch.stack([self.ids[record] for record in records])).logits
        return logits

    def losses(self, model: nn.Module, records: Sequence[int]) -> Tensor:
        labels = torch.tensor([*records]) % models.CLASSES
        return functional.cross_entropy(self.logits(model, records), labels, reduction="none")
