"""Tiny random backbones of text models that people bring, each with what is its own."""

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf

VOCABULARY = 20
_SIZE: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 66,
}
_SEQ2SEQ: dict[str, Any] = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "vocab_size": VOCABULARY,
}
_DISENTANGLED: dict[str, Any] = {
    "relative_attention": True,
    "pos_att_type": ["c2p", "p2c"],
    "max_relative_positions": 16,
}

BACKBONES: dict[str, Callable[[], Any]] = {
    "bert": lambda: hf.BertModel(hf.BertConfig(**_SIZE)),
    "deberta": lambda: hf.DebertaModel(hf.DebertaConfig(**_SIZE, **_DISENTANGLED)),
    "deberta-v2": lambda: hf.DebertaV2Model(
        hf.DebertaV2Config(
            **_SIZE,
            **_DISENTANGLED,
            norm_rel_ebd="layer_norm",
            share_att_key=True,
            position_buckets=8,
        )
    ),
    "opt": lambda: hf.OPTModel(
        hf.OPTConfig(**{**_SIZE, "ffn_dim": 24, "word_embed_proj_dim": 16, "bos_token_id": 0})
    ),
    "longformer": lambda: hf.LongformerModel(hf.LongformerConfig(**_SIZE, attention_window=8)),
    "led": lambda: hf.LEDModel(
        hf.LEDConfig(
            **_SEQ2SEQ,
            attention_window=8,
            max_encoder_position_embeddings=64,
            max_decoder_position_embeddings=64,
        )
    ),
    "esm": lambda: hf.EsmModel(hf.EsmConfig(**_SIZE, pad_token_id=0, mask_token_id=2)),
    "luke": lambda: hf.LukeModel(hf.LukeConfig(**_SIZE, entity_vocab_size=5, entity_emb_size=8)),
    "layoutlm": lambda: hf.LayoutLMModel(hf.LayoutLMConfig(**_SIZE)),
    "mobilebert": lambda: hf.MobileBertModel(
        hf.MobileBertConfig(
            **_SIZE, embedding_size=8, intra_bottleneck_size=16, true_hidden_size=16
        )
    ),
    "ibert": lambda: hf.IBertModel(hf.IBertConfig(**_SIZE)),
    "squeezebert": lambda: hf.SqueezeBertModel(
        hf.SqueezeBertConfig(
            **_SIZE,
            embedding_size=16,
            q_groups=2,
            k_groups=2,
            v_groups=2,
            intermediate_groups=2,
            output_groups=2,
        )
    ),
    "xlnet": lambda: hf.XLNetModel(
        hf.XLNetConfig(vocab_size=VOCABULARY, d_model=16, n_layer=2, n_head=2, d_inner=24)
    ),
    "t5": lambda: hf.T5Model(
        hf.T5Config(vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2)
    ),
    "vit": lambda: hf.ViTModel(
        hf.ViTConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=24,
            image_size=8,
            patch_size=4,
        )
    ),
    "clip": lambda: hf.CLIPModel(
        hf.CLIPConfig(
            text_config=dict(_SIZE),
            vision_config={
                "hidden_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "intermediate_size": 24,
                "image_size": 8,
                "patch_size": 4,
            },
        )
    ),
}


def backbone(name: str) -> Any:
    """A seeded one, whose biases and norms are all away from their starting values."""
    torch.manual_seed(0)
    model = BACKBONES[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()
