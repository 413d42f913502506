"""Small random models in folders, with a tokenizer that knows every text."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2Model,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Model,
)

SHAPE: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 260,
}
GROUPED: dict[str, Any] = {
    **{"hidden_size": 128, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2},
}
MODELS: dict[str, Callable[[], torch.nn.Module]] = {
    "bert": lambda: BertModel(BertConfig(**SHAPE)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE, num_key_value_heads=2)),
    "qwen2, grouped queries": lambda: Qwen2Model(
        Qwen2Config(
            **{**SHAPE, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
            num_key_value_heads=2,
        )
    ),
    "gpt2": lambda: GPT2Model(
        GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=260, n_positions=64)
    ),
}


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A token for each byte."""
    letters = [*sorted(ByteLevel.alphabet()), "<|endoftext|>"]
    tokenizer = Tokenizer(BPE({letter: place for place, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", model_max_length=64
    )


def save_small(name: str, folder: Path, seed: int = 0) -> str:
    """One of ``MODELS`` with random weights; returns its folder."""
    torch.manual_seed(seed)
    MODELS[name]().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)
