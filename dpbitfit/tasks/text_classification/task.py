"""Text classification with a pretrained transformer: tokens, head, losses, files."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from dpbitfit.data.tables import Table
from dpbitfit.engine.batches import PADDED_MULTIPLE, padded_length
from dpbitfit.engine.biases import BiasLayout, freeze, read_biases, select_biases
from dpbitfit.engine.linear_head import LinearHead
from dpbitfit.errors import ModelError
from dpbitfit.tasks.base import Progress
from dpbitfit.tasks.evaluation import outputs
from dpbitfit.tasks.text_classification.backbone import (
    SteadyLinear,
    TextClassifier,
    load_pretrained,
)
from dpbitfit.tasks.text_classification.records import TextRecords
from dpbitfit.tasks.text_classification.settings import TextSettings, TextTask
from dpbitfit.tasks.text_classification.tokenizer import probe_text

_HEAD_WEIGHT = "head.weight"
_PROBES_OF_A_LENGTH = 3
_PROBE_LENGTHS = (8, 20)  # tokens, as far as the model reads so many


@dataclass
class TextClassification(TextTask):
    """A classifier with its tokenizer, its public label set and what of it trains.

    Texts are cut to ``max_length`` tokens and padded to no more than ``positions``, which
    the model reads. ``digest`` is that of the pretrained weights and of the settings that
    both sides must share; ``pretrained`` [P] is what trains, before any of it has;
    ``canonical_rows`` is what this machine needs: see ``batches``.
    """

    model: TextClassifier
    tokenizer: Any
    labels: tuple[str, ...]
    layout: BiasLayout
    max_length: int
    positions: int
    digest: str = ""
    canonical_rows: int = 1
    pretrained: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))

    @classmethod
    def load(cls, folder: str, settings: TextSettings, labels: Sequence[str]) -> Self:
        """Load a model, as ``TextTask.load``."""
        max_length = settings.max_length
        model, tokenizer, positions = load_pretrained(folder, settings.logit_scale, max_length)
        reads = min(max_length, positions)
        task = cls(model, tokenizer, tuple(labels), BiasLayout((), ()), reads, positions)
        model.head = task._label_head(settings.head)
        trained_head = (_HEAD_WEIGHT,) if settings.head == "trained" else ()
        task.layout = select_biases(model, train_also=trained_head)
        freeze(model)
        task.pretrained = read_biases(model, task.layout)
        task.digest = _digest(
            model.backbone, [*labels], settings.head, settings.logit_scale, max_length
        )
        task._read_longest()
        return task

    def probes(self) -> TextRecords:
        """Public records of a few lengths, some of each, none beginning like another."""
        ids = self.tokens([probe_text(self.tokenizer)])[0]
        # Padded to all that the model reads, a shape may be unlike all others.
        longest = padded_length(self.max_length, self.positions)
        lengths = {*_PROBE_LENGTHS, *([longest] if longest % PADDED_MULTIPLE else [])}
        tokens = [
            [ids[(start + place) % len(ids)] for place in range(min(length, self.max_length))]
            for length in sorted(lengths)
            for start in range(_PROBES_OF_A_LENGTH)
        ]
        labels = [number % len(self.labels) for number in range(len(tokens))]
        return TextRecords(self, tokens, labels, [])

    def _read_longest(self) -> None:
        """Read a text of the most tokens; ModelError where the model cannot.

        Later a failure would tell that a site has such a text.
        """
        tokens = self.tokens(["a " * self.max_length])
        try:
            with torch.no_grad():
                self.model.embed(**self.pad(tokens))
        except (IndexError, RuntimeError) as error:
            raise ModelError(f"the model cannot read texts of {len(tokens[0])} tokens") from error

    def _label_head(self, kind: str) -> nn.Linear:
        """The label names' embeddings as a linear layer [K, d]; with a bias if it trains."""
        texts = [name.replace("_", " ").replace("-", " ") for name in self.labels]
        with torch.no_grad():
            vectors = self.model.embed(**self.pad(self.tokens(texts)))  # [K, d]
        head = SteadyLinear(vectors.shape[1], len(texts), bias=kind == "trained")
        with torch.no_grad():
            head.weight.copy_(vectors)
            if head.bias is not None:
                head.bias.zero_()
        return head

    def records(self, table: Table) -> TextRecords:
        """The records, tokenised once."""
        tokens = self.tokens(table.columns["text"])
        return TextRecords(self, tokens, table.columns["label"], table.unit_records())

    def logits(self, records: TextRecords) -> Tensor:
        """Logits [n, K]."""
        logits = torch.empty((len(records.tokens), len(self.labels)))
        for batch, rows in self._logits(records):
            logits[batch] = rows
        return logits

    def evaluate(
        self, records: TextRecords, progress: Progress | None = None
    ) -> dict[str, NDArray[np.float64]]:
        """For each record [n]: 1 where the best label is right, else 0; and its cross-entropy.

        Both are functions of the record alone, to the bit. ``progress`` is told of each
        batch, and may end it.
        """
        accuracy, loss = np.empty((2, len(records.tokens)))
        for batch, logits in self._logits(records, progress):
            labels = records.labels[batch]
            accuracy[batch] = logits.argmax(dim=1) == labels
            loss[batch] = functional.cross_entropy(logits, labels, reduction="none")
        return {"accuracy": accuracy, "loss": loss}

    def _logits(
        self, records: TextRecords, progress: Progress | None = None
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Micro-batches of all records, each with its logits [B, K]."""
        return outputs(records, lambda batch: self.model(**records.inputs(batch)), progress)

    @property
    def linear_head(self) -> LinearHead | None:
        """Where the head lies in the packed vector; None where it is fixed."""
        places = {name: (place, shape) for name, shape, place in self.layout.slices()}
        if _HEAD_WEIGHT not in places:
            return None
        weight, (classes, width) = places[_HEAD_WEIGHT]
        bias, _ = places["head.bias"]
        return LinearHead(weight, bias, classes, width, self.model.logit_scale)

    def features(
        self, records: TextRecords, progress: Progress | None = None
    ) -> NDArray[np.float32]:
        """The embeddings [n, d], each a function of its record alone, to the bit."""
        width = self.model.head.in_features if self.model.head else 0
        embeddings = np.empty((len(records.tokens), width), np.float32)

        def forward(batch: Sequence[int]) -> Tensor:
            return self.model.embed(**records.inputs(batch))

        for batch, rows in outputs(records, forward, progress):
            embeddings[batch] = rows.numpy()
        return embeddings

    def classes(self, records: TextRecords) -> NDArray[np.int64]:
        """Each record's label [n], by its position in the label set."""
        positions: NDArray[np.int64] = records.labels.numpy()
        return positions

    def save(self, folder: Path) -> None:
        """Write backbone and tokenizer for ``from_pretrained``, and head and labels beside."""
        backbone: Any = self.model.backbone
        backbone.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        if self.model.head is not None:
            head = {f"head.{k}": v.contiguous() for k, v in self.model.head.state_dict().items()}
            save_file(head, folder / "head.safetensors")
        described = {"labels": self.labels, "logit_scale": self.model.logit_scale}
        (folder / "labels.json").write_text(json.dumps(described, indent=2))

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text, cut to ``max_length``."""
        if not texts:
            return []  # a simulated site may have no record; a tokenizer fails on none
        encoded = self.tokenizer(list(texts), truncation=True, max_length=self.max_length)
        tokens: list[list[int]] = encoded["input_ids"]
        return tokens

    def pad(self, tokens: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """What the model reads [B, T] of some records, padded as their longest is."""
        length = padded_length(max(len(ids) for ids in tokens), self.positions)
        ids = torch.full((len(tokens), length), int(self.tokenizer.pad_token_id))
        mask = torch.zeros((len(tokens), length), dtype=torch.long)
        for row, values in enumerate(tokens):
            ids[row, : len(values)] = torch.tensor(values)
            mask[row, : len(values)] = 1
        device = next(self.model.parameters()).device
        return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


def _digest(backbone: nn.Module, *settings: Any) -> str:
    """SHA-256 of pretrained weights and settings.

    The head is not in it: embedded labels differ in the last bits between machines.
    """
    digest = hashlib.sha256(json.dumps(settings).encode())
    for name, value in backbone.state_dict().items():
        digest.update(name.encode() + value.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()
