"""Text classification with a pretrained transformer: tokens, head, losses, files."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from dpbitfit.data.tables import Table
from dpbitfit.engine import batches
from dpbitfit.engine.batches import PADDED_MULTIPLE, padded_length
from dpbitfit.engine.biases import BiasLayout, freeze, read_biases, select_biases
from dpbitfit.engine.linear_head import LinearHead
from dpbitfit.errors import InputError, ModelError
from dpbitfit.tasks.base import Progress
from dpbitfit.tasks.evaluation import outputs
from dpbitfit.tasks.models import resolve_model
from dpbitfit.tasks.text_classification import results
from dpbitfit.tasks.text_classification.backbone import (
    TextClassifier,
    load_pretrained,
    weights_digest,
)
from dpbitfit.tasks.text_classification.heads import label_head, stored_head
from dpbitfit.tasks.text_classification.layers import UpperLayers
from dpbitfit.tasks.text_classification.records import TextRecords
from dpbitfit.tasks.text_classification.saved import read_start, read_tensors
from dpbitfit.tasks.text_classification.settings import TextSettings, TextTask
from dpbitfit.tasks.text_classification.tokenizer import probe_text

_HEAD_WEIGHT = "head.weight"
_PROBE_LENGTHS = (8, 20)  # tokens, unless the model reads fewer


@dataclass
class TextClassification(TextTask):
    """A classifier with its tokenizer, its public label set and what of it trains.

    Texts are cut to ``max_length`` tokens and padded to no more than ``positions``, which
    the model reads. ``base`` is the digest of the backbone before training, and ``digest``
    that of all which both sides must share; ``pretrained`` [P] is what trains, before any
    of it has; ``canonical_rows`` is what this machine needs: see ``batches``.
    """

    name: str
    model: TextClassifier
    tokenizer: Any
    settings: TextSettings
    labels: tuple[str, ...]
    max_length: int
    positions: int
    base: str
    layout: BiasLayout = field(default_factory=lambda: BiasLayout((), ()))
    digest: str = ""
    canonical_rows: int = 1
    pretrained: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))

    @classmethod
    def load(cls, folder: str, settings: TextSettings, labels: Sequence[str]) -> Self:
        """Load a model, as ``TextTask.load``; a result that was saved goes on with its head."""
        place, trains = resolve_model(folder), settings.trains_head
        is_local = Path(place).is_dir()
        saved = read_start(place, settings, labels) if is_local else None
        task = cls._read(folder, settings, labels)
        if not is_local:  # now that there is such a model: a hub is slow to say that there is none
            saved = read_start(place, settings, labels)
        if saved is None:
            names = [name.replace("_", " ").replace("-", " ") for name in labels]
            task.model.head = label_head(labels, task._embeddings(names), trains)
            head = ""  # embedded labels differ in the last bits between machines
        else:
            task.model.head = stored_head(read_tensors(place, saved), len(labels), trains)
            head = weights_digest(task.model.head)
        task.layout = task._layout()
        freeze(task.model)
        task.pretrained = read_biases(task.model, task.layout)
        shared = [task.base, head, task.model.pooling, [*labels], settings.model_dump()]
        task.digest = hashlib.sha256(json.dumps(shared).encode()).hexdigest()
        task._read_longest()
        return task

    @classmethod
    def restore(cls, folder: str, base: str = "") -> Self:
        """A saved result, to answer as when it was saved; an adapter on its ``base`` model.

        Raises InputError where a part of it is missing or was changed, where the base is
        another, and where the answers are.
        """
        saved = results.read_result(folder, base)
        task = cls._read(base or folder, saved.settings, saved.labels)
        results.apply(folder, saved, task)
        freeze(task.model)
        return task

    @classmethod
    def _read(cls, folder: str, settings: TextSettings, labels: Sequence[str]) -> Self:
        """A model without a head, which nothing has been asked of."""
        model, tokenizer, positions = load_pretrained(
            folder, settings.logit_scale, settings.max_length
        )
        max_length = min(settings.max_length, positions)
        added = tokenizer.num_special_tokens_to_add()
        if max_length <= added:
            raise InputError(
                f"max-length {max_length} leaves no token of a text: the tokenizer of {folder!r} "
                f"adds {added} of its own"
            )
        return cls(
            name=Path(folder).name if Path(folder).is_dir() else folder,
            model=model,
            tokenizer=tokenizer,
            settings=settings,
            labels=tuple(labels),
            max_length=max_length,
            positions=positions,
            base=weights_digest(model.backbone),
        )

    def _layout(self) -> BiasLayout:
        """What may train by the settings."""
        below: set[str] = set()
        if self.settings.layers:
            self.model.upper = UpperLayers(self.model.backbone, self.settings.layers)
            below = {f"backbone.{name}" for name in self.model.upper.below}
        head = (_HEAD_WEIGHT,) if self.settings.trains_head else ()
        return select_biases(self.model, head, below)

    def probes(self) -> TextRecords:
        """Public records of a few lengths, some of each, none beginning like another.

        One in three is padded, where its length allows that.
        """
        ids = self.tokens([probe_text(self.tokenizer)])[0]
        # Padded to all that the model reads, a shape may be unlike all others.
        longest = padded_length(self.max_length, self.positions)
        lengths = {*_PROBE_LENGTHS, *([longest] if longest % PADDED_MULTIPLE else [])}
        if batches.has_few_shapes(self.model):  # each is checked
            every = range(1, self.max_length + 1)
            lengths = {padded_length(tokens, self.positions) for tokens in every}
        counts = [
            fewer if padded_length(fewer, self.positions) == length else most
            for length in sorted(lengths)
            for most in (min(length, self.max_length),)
            for fewer in (most, most - 1, most)
        ]
        tokens = [
            [ids[(start + place) % len(ids)] for place in range(count)]
            for start, count in enumerate(counts)
        ]
        labels = [number % len(self.labels) for number in range(len(tokens))]
        return TextRecords(self, tokens, labels, [])

    def longest(self) -> TextRecords:
        """A text of the most tokens, whatever the tokenizer makes of any."""
        ids = self.tokens([probe_text(self.tokenizer)])[0]
        longest = [ids[place % len(ids)] for place in range(self.max_length)]
        return TextRecords(self, [longest], [0], [], self._upper)

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

    def _embeddings(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors [n, d] of public texts."""
        records = TextRecords(self, self.tokens(texts), [0] * len(texts), [])
        places, rows = zip(*self._outputs(self.model.embed, records), strict=True)
        order = torch.tensor([*chain(*places)]).argsort()
        return torch.cat(rows)[order]

    def records(self, table: Table) -> TextRecords:
        """The records, tokenised once."""
        tokens = self.tokens(table.columns["text"])
        return TextRecords(self, tokens, table.columns["label"], table.unit_records(), self._upper)

    @property
    def _upper(self) -> UpperLayers | None:
        """The layers that train, where they can go on from what is kept of those below."""
        return self.model.upper if self.model.upper and self.model.upper.can_go_on else None

    def logits(self, records: TextRecords) -> Tensor:
        """Logits [n, K]."""
        logits = torch.empty((len(records.tokens), len(self.labels)))
        for batch, rows in self._outputs(self.model, records):
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
        for batch, logits in self._outputs(self.model, records, progress):
            labels = records.labels[batch]
            accuracy[batch] = logits.argmax(dim=1) == labels
            loss[batch] = functional.cross_entropy(logits, labels, reduction="none")
        return {"accuracy": accuracy, "loss": loss}

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
        for batch, rows in self._outputs(self.model.embed, records, progress):
            embeddings[batch] = rows.numpy()
        return embeddings

    def _outputs(
        self, part: Callable[..., Tensor], records: TextRecords, progress: Progress | None = None
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Micro-batches of all records, each with what a part of the model makes of it [B, ...]."""
        records.prepare(progress)
        forward = lambda batch: part(**records.inputs(batch))  # noqa: E731
        return outputs(self.model, records, forward, progress)

    def classes(self, records: TextRecords) -> NDArray[np.int64]:
        """Each record's label [n], by its position in the label set."""
        positions: NDArray[np.int64] = records.labels.numpy()
        return positions

    def save(self, folder: Path) -> None:
        """Write the whole model: for ``restore``, transformers and sentence-transformers."""
        results.save_model(self, folder)

    def save_adapter(self, folder: Path) -> None:
        """Write only what trained, and the head: for ``restore`` on the base model."""
        results.save_adapter(self, folder)

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text, cut to ``max_length``."""
        if not texts:
            return []  # a simulated site may have no record; a tokenizer fails on none
        encoded = self.tokenizer(list(texts), truncation=True, max_length=self.max_length)
        # Cut here too: a longer text would fail later, and so tell that a site has one.
        return [ids[: self.max_length] for ids in encoded["input_ids"]]

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
