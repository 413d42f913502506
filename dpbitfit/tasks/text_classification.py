"""Text classification with a pretrained transformer: tokens, head, losses, files."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.utils import logging

from dpbitfit.data.tables import Examples
from dpbitfit.engine.batches import (
    PADDED_MULTIPLE,
    deterministic,
    filled,
    micro_batches,
    padded_length,
)
from dpbitfit.engine.biases import BiasLayout, freeze, read_biases, select_biases
from dpbitfit.engine.selfcheck import check_gradients
from dpbitfit.errors import InputError, ModelError
from dpbitfit.plan import HEADS
from dpbitfit.tasks.models import resolve_model

_EVALUATION_TOKENS = 8192

Progress = Callable[[int, int], None]
# A public text: pieces of it are the probes of the check at attach time.
_PROBE_TEXT = (
    "the card has not come and I was charged twice for one payment last week: what is the rate of "
    "my new loan, how long does a transfer to another country take, and whom do I ask about a fee"
)
_PROBES_OF_A_LENGTH = 3
_PROBE_LENGTHS = (8, 20)  # tokens, as far as the model reads so many


class SteadyLinear(nn.Linear):
    """A linear layer whose output for a record [d] does not depend on how many there are.

    A product of few rows takes another kernel, whose sums round differently.
    """

    _MORE_ROWS = 8

    def forward(self, input: Tensor) -> Tensor:
        """Outputs [B, K] of inputs [B, d]."""
        return super().forward(functional.pad(input, (0, 0, 0, self._MORE_ROWS)))[: len(input)]


class TextClassifier(nn.Module):
    """A backbone, one pooled and normalised embedding, and a linear head.

    The embedding is the mean over tokens for encoders and the last token for
    decoders. A ``labels`` head is fixed: the embedded label names [K, d]; a
    ``trained`` head starts there and trains its weight and bias.
    """

    def __init__(self, backbone: nn.Module, last_token: bool, logit_scale: float) -> None:
        super().__init__()
        self.backbone = backbone
        self.last_token = last_token
        self.logit_scale = logit_scale
        self.head: nn.Linear | None = None

    def embed(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Unit vectors [B, d] for token ids and mask [B, T]."""
        states = self.backbone(input_ids=input_ids, attention_mask=attention_mask)[0]  # [B, T, d]
        if self.last_token:
            last = attention_mask.sum(dim=1) - 1  # [B]
            pooled = states[torch.arange(len(states)), last]
        else:
            mask = attention_mask.unsqueeze(-1).to(states.dtype)  # [B, T, 1]
            pooled = (states * mask).sum(dim=1) / mask.sum(dim=1)
        return functional.normalize(pooled, dim=-1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits [B, K]."""
        if self.head is None:
            raise ModelError("the head is not set")
        logits: Tensor = self.logit_scale * self.head(self.embed(input_ids, attention_mask))
        return logits


@dataclass
class TextTask:
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
    def load(
        cls,
        model_name: str,
        labels: Sequence[str],
        head: str,
        logit_scale: float = 20.0,
        max_length: int = 128,
    ) -> Self:
        """Load a model by folder, hub id or ``minilm``, and check its gradients.

        Only safetensors, never code from a hub. Raises InputError when it cannot
        be loaded, ModelError when it cannot be trained privately.
        """
        if head not in HEADS:
            raise InputError(f"the head must be one of {', '.join(HEADS)}, not {head!r}")
        where = resolve_model(model_name)
        try:
            config = AutoConfig.from_pretrained(where, trust_remote_code=False)
            tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False)
            backbone = _load_backbone(where)
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"the model {model_name!r} cannot be loaded: {error}") from error
        known = (tokenizer.model_max_length, getattr(config, "max_position_embeddings", None))
        positions = min((length for length in known if length), default=max_length)
        if max(tokenizer.get_vocab().values()) >= backbone.get_input_embeddings().num_embeddings:
            # A record with such a token would end its round: that would tell of the record.
            raise ModelError(f"{where}: its tokenizer knows tokens that the model has none for")
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        tokenizer.padding_side = "right"
        causal = any("CausalLM" in name for name in getattr(config, "architectures", None) or ())
        last_token = (
            causal or config.model_type.startswith("gpt")
        ) and not config.is_encoder_decoder
        model = TextClassifier(backbone, last_token, logit_scale)
        model.eval()
        reads = min(max_length, positions)
        task = cls(model, tokenizer, tuple(labels), BiasLayout((), ()), reads, positions)
        model.head = task._label_head(head)
        trained_head = ("head.weight",) if head == "trained" else ()
        task.layout = select_biases(model, train_also=trained_head)
        freeze(model)
        task.pretrained = read_biases(model, task.layout)
        task.digest = _digest(backbone, [*labels], head, logit_scale, max_length)
        task._read_longest()
        probes = task._probes()
        task.canonical_rows = check_gradients(
            model, task.layout, lambda chosen: probes.losses(model, chosen), probes.lengths
        )
        return task

    def _probes(self) -> "TextRecords":
        """Public records of a few lengths, some of each, none beginning like another."""
        ids = self._tokens([_PROBE_TEXT])[0]
        # Padded to all that the model reads, a shape may be unlike all others.
        longest = padded_length(self.max_length, self.positions)
        lengths = {*_PROBE_LENGTHS, *([longest] if longest % PADDED_MULTIPLE else [])}
        tokens = [
            [ids[(start + place) % len(ids)] for place in range(min(length, self.max_length))]
            for length in sorted(lengths)
            for start in range(_PROBES_OF_A_LENGTH)
        ]
        labels = np.arange(len(tokens), dtype=np.int64) % len(self.labels)
        return TextRecords(self, tokens, labels)

    def _read_longest(self) -> None:
        """Read a text of the most tokens; ModelError where the model cannot.

        Later a failure would tell that a site has such a text.
        """
        tokens = self._tokens(["a " * self.max_length])
        try:
            with torch.no_grad():
                self.model.embed(**self._pad(tokens))
        except (IndexError, RuntimeError) as error:
            raise ModelError(f"the model cannot read texts of {len(tokens[0])} tokens") from error

    def _label_head(self, kind: str) -> nn.Linear:
        """The label names' embeddings as a linear layer [K, d]; with a bias if it trains."""
        texts = [name.replace("_", " ").replace("-", " ") for name in self.labels]
        with torch.no_grad():
            vectors = self.model.embed(**self._pad(self._tokens(texts)))  # [K, d]
        head = SteadyLinear(vectors.shape[1], len(texts), bias=kind == "trained")
        with torch.no_grad():
            head.weight.copy_(vectors)
            if head.bias is not None:
                head.bias.zero_()
        return head

    def records(self, examples: Examples) -> "TextRecords":
        """The examples, tokenised once."""
        return TextRecords(self, self._tokens(examples.texts), examples.labels, examples.units)

    def logits(self, records: "TextRecords", progress: Progress | None = None) -> Tensor:
        """Logits [n, K]; ``progress`` is told of each batch, and may end it."""
        logits = torch.empty((len(records.tokens), len(self.labels)))
        for batch, found in self._logits(records, progress):
            logits[batch] = found
        return logits

    def score(
        self, records: "TextRecords", progress: Progress | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """For each record [n]: 1 where the best label is right, else 0; and its cross-entropy.

        Both are functions of the record alone, to the bit.
        """
        correct, losses = np.empty((2, len(records.tokens)))
        for batch, logits in self._logits(records, progress):
            labels = records.labels[batch]
            correct[batch] = logits.argmax(dim=1) == labels
            losses[batch] = functional.cross_entropy(logits, labels, reduction="none")
        return correct, losses

    def _logits(
        self, records: "TextRecords", progress: Progress | None
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Micro-batches of all records, each with its logits [B, K]."""
        done, canonical = 0, self.canonical_rows
        everything = range(len(records.tokens))
        with torch.no_grad(), deterministic():
            for batch in micro_batches(everything, records.lengths, canonical, _EVALUATION_TOKENS):
                logits = self.model(**records.inputs(filled(batch, canonical)))[: len(batch)]
                yield batch, logits.float().cpu()
                done += len(batch)
                if progress is not None:
                    progress(done, len(records.tokens))

    def save(self, directory: Path) -> None:
        """Write backbone and tokenizer for ``from_pretrained``, and head and labels beside."""
        backbone: Any = self.model.backbone
        backbone.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)
        if self.model.head is not None:
            head = {f"head.{k}": v.contiguous() for k, v in self.model.head.state_dict().items()}
            save_file(head, directory / "head.safetensors")
        described = {"labels": self.labels, "logit_scale": self.model.logit_scale}
        (directory / "labels.json").write_text(json.dumps(described, indent=2))

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []  # a simulated site may have no record; a tokenizer fails on none
        found: list[list[int]] = self.tokenizer(
            list(texts), truncation=True, max_length=self.max_length
        )["input_ids"]
        return found

    def _pad(self, tokens: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        length = padded_length(max(len(ids) for ids in tokens), self.positions)
        ids = torch.full((len(tokens), length), int(self.tokenizer.pad_token_id))
        mask = torch.zeros((len(tokens), length), dtype=torch.long)
        for row, values in enumerate(tokens):
            ids[row, : len(values)] = torch.tensor(values)
            mask[row, : len(values)] = 1
        device = next(self.model.parameters()).device
        return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


class TextRecords:
    """One site's tokenised records: a ``training.PrivateRecords``."""

    def __init__(
        self,
        task: TextTask,
        tokens: Sequence[Sequence[int]],
        labels: NDArray[np.int64],
        units: Sequence[str] | None = None,
    ) -> None:
        self._task = task
        self.tokens = tokens
        self.labels = torch.from_numpy(labels)
        self.lengths = np.array(
            [padded_length(len(ids), task.positions) for ids in tokens], dtype=np.int64
        )
        members: dict[str | int, list[int]] = {}
        owners: Sequence[str | int] = units or range(len(tokens))
        for record, owner in enumerate(owners):
            members.setdefault(owner, []).append(record)
        self.units = [np.array(records, dtype=np.int64) for records in members.values()]

    @property
    def canonical_rows(self) -> int:
        """Of how many rows a micro-batch is a whole multiple."""
        return self._task.canonical_rows

    def inputs(self, records: Sequence[int]) -> dict[str, Tensor]:
        """What the model reads [B, T] of some records of one padded length."""
        return self._task._pad([self.tokens[i] for i in records])

    def losses(self, model: nn.Module, records: Sequence[int]) -> Tensor:
        """Cross-entropy [B] of some records of one padded length, one for each."""
        logits = model(**self.inputs(records))
        labels = self.labels[list(records)].to(logits.device)
        return functional.cross_entropy(logits.float(), labels, reduction="none")


def _digest(backbone: nn.Module, *settings: Any) -> str:
    """SHA-256 of pretrained weights and settings.

    The head is not in it: embedded labels differ in the last bits between machines.
    """
    found = hashlib.sha256(json.dumps(settings).encode())
    for name, value in backbone.state_dict().items():
        found.update(name.encode() + value.contiguous().cpu().numpy().tobytes())
    return found.hexdigest()


def _load_backbone(where: str) -> Any:
    options = {"trust_remote_code": False, "use_safetensors": True, "output_loading_info": True}
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        # A pooler that nothing reads would be a bias that no record reaches.
        backbone, loading = AutoModel.from_pretrained(where, add_pooling_layer=False, **options)
    except TypeError:
        backbone, loading = AutoModel.from_pretrained(where, **options)
    if loading["missing_keys"]:
        # They would be drawn at random, differently at every site.
        raise ModelError(f"{where}: the files lack weights, such as {min(loading['missing_keys'])}")
    return backbone.float()
