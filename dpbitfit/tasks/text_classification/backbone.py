"""The model of text classification: a pretrained backbone and a linear head over labels."""

import hashlib
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.utils import logging

from dpbitfit.errors import InputError, ModelError
from dpbitfit.tasks.models import resolve_model
from dpbitfit.tasks.text_classification.pooling import Pooling, pool, pooling_of


class TextClassifier(nn.Module):
    """A backbone, one pooled and normalised embedding, and a linear head.

    ``pooling`` makes the embedding out of the tokens' states. A ``labels`` head is fixed:
    the embedded label names [K, d]; a ``trained`` head starts there and trains its weight
    and bias.
    """

    def __init__(self, backbone: nn.Module, pooling: Pooling, logit_scale: float) -> None:
        super().__init__()
        self.backbone = backbone
        self.pooling = pooling
        self.logit_scale = logit_scale
        self.head: nn.Linear | None = None

    def embed(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Unit vectors [B, d] for token ids and mask [B, T]."""
        states = self.backbone(input_ids=input_ids, attention_mask=attention_mask)[0]  # [B, T, d]
        return functional.normalize(pool(states, attention_mask, self.pooling), dim=-1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits [B, K]."""
        if self.head is None:
            raise ModelError("the head is not set")
        logits: Tensor = self.logit_scale * self.head(self.embed(input_ids, attention_mask))
        return logits


def load_pretrained(
    model_name: str, logit_scale: float, max_length: int
) -> tuple[TextClassifier, Any, int]:
    """A classifier without its head, the tokenizer, and how many tokens the model reads.

    ``model_name`` is a folder, hub id or ``minilm``. Only safetensors, never code from a
    hub. Raises InputError when it cannot be loaded, ModelError where the files do not
    make a whole model.
    """
    folder = resolve_model(model_name)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        backbone = _load_backbone(folder)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"the model {model_name!r} cannot be loaded: {error}") from error
    limits = (tokenizer.model_max_length, getattr(config, "max_position_embeddings", None))
    positions = min((length for length in limits if length), default=max_length)
    if max(tokenizer.get_vocab().values()) >= backbone.get_input_embeddings().num_embeddings:
        # A record with such a token would end its round: that would tell of the record.
        raise ModelError(f"{folder}: its tokenizer knows tokens that the model has none for")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    vocabulary = backbone.get_input_embeddings().num_embeddings
    pooling = pooling_of(folder, backbone.eval(), vocabulary)
    return TextClassifier(backbone, pooling, logit_scale).eval(), tokenizer, positions


def weights_digest(module: nn.Module) -> str:
    """SHA-256 of a module's weights, by name."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(name.encode() + value.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


def _load_backbone(folder: str) -> Any:
    options = {"trust_remote_code": False, "use_safetensors": True, "output_loading_info": True}
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        # A pooler that nothing reads would be a bias that no record reaches.
        backbone, loading = AutoModel.from_pretrained(folder, add_pooling_layer=False, **options)
    except TypeError:
        backbone, loading = AutoModel.from_pretrained(folder, **options)
    if loading["missing_keys"]:
        # They would be drawn at random, differently at every site.
        missing = min(loading["missing_keys"])
        raise ModelError(f"{folder}: the files lack weights, such as {missing}")
    return backbone.float()
