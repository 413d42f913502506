"""Text classification with a pretrained transformer: tokens, head, losses, files."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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

from dpbitfit import bias
from dpbitfit.bias import BiasLayout
from dpbitfit.errors import InputError, ModelError
from dpbitfit.models import resolve_model
from dpbitfit.plan import HEADS
from dpbitfit.selfcheck import check_gradients
from dpbitfit.tables import Examples
from dpbitfit.training import micro_batches

_EVALUATION_TOKENS = 8192

Progress = Callable[[int, int], None]
# Public synthetic texts of different lengths for the check at attach time.
_PROBES = (
    "the card has not come",
    "why was I charged twice for one payment last week",
    "hello",
    "please tell me how long a transfer to another country takes and what it costs",
)


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

    ``digest`` is that of the pretrained weights and of the settings that both
    sides must share.
    """

    model: TextClassifier
    tokenizer: Any
    labels: tuple[str, ...]
    layout: BiasLayout
    max_length: int
    digest: str = ""

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
        reads = min(max_length, *(length for length in known if length))
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        tokenizer.padding_side = "right"
        causal = any("CausalLM" in name for name in getattr(config, "architectures", None) or ())
        last_token = (
            causal or config.model_type.startswith("gpt")
        ) and not config.is_encoder_decoder
        model = TextClassifier(backbone, last_token, logit_scale)
        model.eval()
        task = cls(model, tokenizer, tuple(labels), BiasLayout((), ()), reads)
        model.head = task._label_head(head)
        trained_head = ("head.weight",) if head == "trained" else ()
        task.layout = bias.select(model, train_also=trained_head)
        bias.freeze(model)
        task.digest = _digest(backbone, [*labels], head, logit_scale, max_length)
        task._read_longest()
        probes = task.records(Examples(list(_PROBES), np.arange(4, dtype=np.int64) % len(labels)))
        check_gradients(model, task.layout, lambda chosen: probes.losses(model, chosen))
        return task

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
        head = nn.Linear(vectors.shape[1], len(texts), bias=kind == "trained")
        with torch.no_grad():
            head.weight.copy_(vectors)
            if head.bias is not None:
                head.bias.zero_()
        return head

    def records(self, examples: Examples) -> "TextRecords":
        """The examples, tokenised once."""
        return TextRecords(self, examples)

    def logits(self, records: "TextRecords", progress: Progress | None = None) -> Tensor:
        """Logits [n, K]; ``progress`` is told of each batch, and may end it."""
        tokens, done = records.tokens, 0
        found = torch.empty((len(tokens), len(self.labels)))
        with torch.no_grad():
            for batch in micro_batches(range(len(tokens)), records.lengths, _EVALUATION_TOKENS):
                found[batch] = self.model(**self._pad([tokens[i] for i in batch])).cpu()
                done += len(batch)
                if progress is not None:
                    progress(done, len(tokens))
        return found

    def score(
        self, records: "TextRecords", progress: Progress | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """For each record [n]: 1 where the best label is right, else 0; and its cross-entropy."""
        logits = self.logits(records, progress)
        correct = (logits.argmax(dim=1) == records.labels).double()
        losses = functional.cross_entropy(logits, records.labels, reduction="none").double()
        return correct.numpy(), losses.numpy()

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
        longest = max(len(ids) for ids in tokens)
        ids = torch.full((len(tokens), longest), int(self.tokenizer.pad_token_id))
        mask = torch.zeros((len(tokens), longest), dtype=torch.long)
        for row, values in enumerate(tokens):
            ids[row, : len(values)] = torch.tensor(values)
            mask[row, : len(values)] = 1
        device = next(self.model.parameters()).device
        return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


class TextRecords:
    """One site's tokenised records: a ``training.PrivateRecords``."""

    def __init__(self, task: TextTask, examples: Examples) -> None:
        self._task = task
        self.tokens = task._tokens(examples.texts)
        self.labels = torch.from_numpy(examples.labels)
        self.lengths = np.array([len(ids) for ids in self.tokens], dtype=np.int64)
        owners: Sequence[str | int] = examples.units or range(len(examples))
        members: dict[str | int, list[int]] = {}
        for record, owner in enumerate(owners):
            members.setdefault(owner, []).append(record)
        self.units = [np.array(records, dtype=np.int64) for records in members.values()]

    def losses(self, model: nn.Module, records: Sequence[int]) -> Tensor:
        """Cross-entropy [B] of some records, one for each."""
        logits = model(**self._task._pad([self.tokens[i] for i in records]))
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
