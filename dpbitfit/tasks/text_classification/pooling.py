"""How the states of a text's tokens become one embedding.

A sentence-transformers folder says it of its model. For another it follows from how the
model attends: where no token sees a later one, only the last has read the whole text.
"""

import json
from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from dpbitfit.errors import InputError, ModelError
from dpbitfit.tasks.text_classification.files import find_file

Pooling = Literal["mean", "cls", "lasttoken"]  # as sentence-transformers calls them

FLAGS = {  # of sentence-transformers up to version 5
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
_POOLINGS: dict[str, Pooling] = {mode: mode for mode in get_args(Pooling)}
_COMPUTED = {"Transformer", "Pooling", "Normalize"}  # embeddings are normalised in any case
_CONTEXT = 8  # tokens by which attention is told


def pool(states: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """One vector [B, d] of the states [B, T, d] of each text; ``mask`` [B, T] begins with ones.

    The mean of a text without tokens is 0.
    """
    if pooling == "cls":
        return states[:, 0]
    if pooling == "lasttoken":
        return states[torch.arange(len(states)), mask.sum(dim=1) - 1]
    weights = mask.unsqueeze(-1).to(states.dtype)  # [B, T, 1]
    return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def pooling_of(model: str, backbone: nn.Module, vocabulary: int) -> Pooling:
    """How a loaded model of a folder or hub id pools.

    Raises ModelError where its files name a way, or a module, that is not computed here,
    InputError where they cannot be read.
    """
    return _declared(model) or ("lasttoken" if is_causal(backbone, vocabulary) else "mean")


def is_causal(backbone: nn.Module, vocabulary: int) -> bool:
    """Whether the first token's state is the same whatever comes last."""
    ids = torch.arange(_CONTEXT).unsqueeze(0) % vocabulary  # [1, T]
    other = ids.clone()
    other[0, -1] = (ids[0, -1] + 1) % vocabulary
    try:
        with torch.no_grad():
            first, second = (
                backbone(input_ids=text, attention_mask=torch.ones_like(text))[0][:, 0]
                for text in (ids, other)
            )
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        raise ModelError(f"the model cannot read a text: {error}") from error
    return torch.equal(first, second)


def _declared(model: str) -> Pooling | None:
    modules = _modules(model)
    if other := modules.keys() - _COMPUTED:
        raise ModelError(f"{model}: its embeddings need {min(other)}, which is not computed here")
    config = _read(model, f"{modules.get('Pooling', '1_Pooling')}/config.json")
    if config is None:
        return None
    modes = _modes(config)
    pooling = _POOLINGS.get(modes[0]) if len(modes) == 1 else None
    if pooling is None:
        raise ModelError(f"{model}: pools by {' and '.join(modes)}, which is not computed here")
    return pooling


def _modules(model: str) -> dict[str, str]:
    """Where each module of a sentence-transformers folder is, by its class."""
    listed = _read(model, "modules.json") or ()
    try:
        return {module["type"].rpartition(".")[2]: module["path"] for module in listed}
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{model}: modules.json is damaged") from error


def _modes(config: Mapping[str, Any]) -> list[str]:
    if mode := config.get("pooling_mode"):
        return [mode] if isinstance(mode, str) else list(mode)
    return [mode for flag, mode in FLAGS.items() if config.get(flag)] or ["mean"]


def _read(model: str, name: str) -> Any:
    path = find_file(model, name)
    try:
        return None if path is None else json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read") from error
