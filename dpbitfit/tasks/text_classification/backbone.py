"""The model of text classification: a pretrained backbone and a linear head over labels."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, AutoConfig, AutoModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.utils import logging

from dpbitfit.engine.finite import require_finite
from dpbitfit.errors import DpbitfitError, InputError, ModelError
from dpbitfit.tasks.models import check_files, reason, resolve_model
from dpbitfit.tasks.text_classification.layers import UpperLayers
from dpbitfit.tasks.text_classification.pooling import Pooling, pool, pooling_of
from dpbitfit.tasks.text_classification.tokenizer import load_tokenizer

# Torch's attention, with a mask whatever it says. Without one where no record of a batch is padded,
# as transformers has it, a record that is not would be computed otherwise beside one that is.
ATTENTION = "sdpa_masked"


def _mask(*arguments: Any, **options: Any) -> Tensor | None:
    never = {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    mask: Tensor | None = sdpa_mask(*arguments, **options | never)
    return mask


AttentionInterface.register(ATTENTION, sdpa_attention_forward)
AttentionMaskInterface.register(ATTENTION, _mask)


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
        self.upper: UpperLayers | None = None  # where not all layers train

    def embed(
        self, input_ids: Tensor, attention_mask: Tensor, below: Tensor | None = None
    ) -> Tensor:
        """Unit vectors [B, d] for token ids and mask [B, T].

        ``below`` is what ``upper.states`` made of them [B, T, d], where that is known.
        """
        if self.upper is None or below is None:
            states = self.backbone(input_ids=input_ids, attention_mask=attention_mask)[0]
        else:
            states = self.upper.go_on(below, input_ids, attention_mask)  # [B, T, d]
        return functional.normalize(
            pool(states, attention_mask.to(states.device), self.pooling), dim=-1
        )

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, below: Tensor | None = None
    ) -> Tensor:
        """Logits [B, K], as ``embed``."""
        if self.head is None:
            raise ModelError("the head is not set")
        logits: Tensor = self.logit_scale * self.head(self.embed(input_ids, attention_mask, below))
        return logits


def load_pretrained(
    model_name: str, logit_scale: float, max_length: int
) -> tuple[TextClassifier, Any, int]:
    """A classifier without its head, the tokenizer, and how many tokens the model reads.

    ``model_name`` is a folder, hub id or ``minilm``. Only safetensors, never code from a
    hub. Raises InputError when it cannot be loaded, ModelError where it is no whole model
    that reads texts.
    """
    folder = resolve_model(model_name)
    check_files(Path(folder))
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        backbone = _load_backbone(folder)
        tokenizer = load_tokenizer(folder, _known_tokens(backbone))
        pooling = pooling_of(folder, backbone.eval(), _known_tokens(backbone))
    except DpbitfitError:
        raise
    except Exception as error:  # whatever a library does with files that are not as they should be
        raise InputError(f"the model {model_name!r} cannot be loaded: {reason(error)}") from error
    limits = (tokenizer.model_max_length, *_position_limits(config, backbone))
    positions = min((length for length in limits if length > 0), default=max_length)
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
    require_finite(backbone)
    if backbone.config._attn_implementation == "sdpa":
        backbone.set_attn_implementation(ATTENTION)
    return backbone.float()


def _known_tokens(backbone: Any) -> int:
    """How many tokens a model knows; ModelError for one that reads no texts."""
    try:
        embeddings: Tensor = backbone.get_input_embeddings().weight
    except (AttributeError, NotImplementedError) as error:
        kind = type(backbone).__name__
        raise ModelError(f"a {kind} does not read the tokens of a text") from error
    return len(embeddings)


def _position_limits(config: Any, backbone: nn.Module) -> Iterator[int]:
    """Of how many tokens a model has positions, from all that says so."""
    yield getattr(config, "max_position_embeddings", None) or 0
    for path, layer in backbone.named_modules():
        if path.endswith("position_embeddings") and isinstance(layer, nn.Embedding):
            # RoBERTa and its like count positions from the one after padding's.
            first = 0 if layer.padding_idx is None else layer.padding_idx + 1
            yield layer.num_embeddings - first
