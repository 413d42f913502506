"""Small random models of the shapes that people fine-tune, with their losses."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2Model,
    RobertaConfig,
    RobertaForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
)

RECORDS, TOKENS, CLASSES = 6, 7, 3
SHAPE: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "num_labels": CLASSES,
    "attn_implementation": "eager",
}
TEXT: dict[str, Any] = {"vocab_size": 50, "max_position_embeddings": 40}


def bert(**changes: Any) -> nn.Module:
    return BertForSequenceClassification(BertConfig(**{**SHAPE, **TEXT, **changes}))


def roberta() -> nn.Module:
    return RobertaForSequenceClassification(RobertaConfig(**SHAPE, **TEXT))


class LastToken(nn.Module):
    """A decoder with a linear head on its last token."""

    def __init__(self, decoder: nn.Module, width: int) -> None:
        super().__init__()
        self.decoder = decoder
        self.head = nn.Linear(width, CLASSES)

    def forward(self, ids: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.head(self.decoder(ids)[0][:, -1]))


def gpt2() -> nn.Module:
    shape = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 50, "n_positions": 40}
    return LastToken(GPT2Model(GPT2Config(**shape, attn_implementation="eager")), 16)


def vit() -> nn.Module:
    return ViTForImageClassification(ViTConfig(**SHAPE, image_size=8, patch_size=4))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "bert": bert,
    "roberta": roberta,
    "gpt2": gpt2,
    "vit": vit,
}


def build(name: str) -> nn.Module:
    """A seeded model whose biases and norms are all away from their starting values."""
    torch.manual_seed(0)
    model = MODELS[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def inputs(name: str) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    if name == "vit":
        return torch.randn(RECORDS, 3, 8, 8, generator=generator)
    return torch.randint(2, 48, (RECORDS, TOKENS), generator=generator)


LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def losses(model: nn.Module, name: str) -> Callable[[Sequence[int]], Tensor]:
    data = inputs(name)

    def per_record(records: Sequence[int]) -> Tensor:
        logits = model(data[list(records)]).logits
        return functional.cross_entropy(logits, LABELS[list(records)], reduction="none")

    return per_record
