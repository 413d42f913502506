"""Which parameters train: every bias, in a fixed order that both sides compare.

A bias is selected when it belongs to a layer whose bias gradient is a plain sum
of the gradients of its output, ``dL/db = sum_t dL/ds_t`` (Bu et al. 2022,
arXiv 2210.00036, equation 4). Key biases of a softmax attention are left out:
they add the same number to every score of a row, so their gradient is zero.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers.pytorch_utils import Conv1D

from dpbitfit.errors import ModelError

# Where the features are in a layer's output: the last dimensions, or dimension 1.
FEATURES_LAST = (nn.Linear, nn.LayerNorm, Conv1D)
FEATURES_SECOND = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.GroupNorm)
_MIXES_RECORDS = nn.modules.batchnorm._BatchNorm
_KEY_NAMES = ("key", "k_proj", "k_lin", "key_proj", "k")
_ROTARY_FIELDS = ("rope_theta", "rope_parameters", "rope_scaling", "rotary_pct", "rotary_dim")


@dataclass(frozen=True)
class BiasLayout:
    """What trains: parameter names and shapes, in the order of the packed vector."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def size(self) -> int:
        """How many numbers train: P."""
        return sum(math.prod(shape) for shape in self.shapes)

    @property
    def digest(self) -> str:
        """SHA-256 over names, shapes and order."""
        text = json.dumps([self.names, self.shapes], separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def without(self, place: slice) -> "BiasLayout":
        """The layout without the parameter at a place in the packed vector."""
        left = [(name, shape) for name, shape, own in self.slices() if own != place]
        return BiasLayout(tuple(name for name, _ in left), tuple(shape for _, shape in left))

    def slices(self) -> Iterator[tuple[str, tuple[int, ...], slice]]:
        """Each parameter's name, its shape and its place in the packed vector."""
        start = 0
        for name, shape in zip(self.names, self.shapes, strict=True):
            stop = start + math.prod(shape)
            yield name, shape, slice(start, stop)
            start = stop


def select_biases(model: nn.Module, train_also: Sequence[str] = ()) -> BiasLayout:
    """The layout of every bias that trains, and of the parameters in ``train_also``.

    Raises ModelError, naming the layer, for a model without biases, for one that
    mixes records (BatchNorm in train mode), and for a bias that belongs to no
    supported layer (a packed attention bias, a bias used functionally).
    """
    layout: dict[str, tuple[int, ...]] = {}
    covered: set[int] = set()
    softmax_keys = not _is_rotary(model)
    for path, module in model.named_modules():
        if isinstance(module, _MIXES_RECORDS):
            if module.training:
                raise ModelError(f"{path}: BatchNorm in train mode mixes records; call eval()")
            covered.update(id(parameter) for parameter in module.parameters(recurse=False))
            continue
        bias = module._parameters.get("bias")
        if not isinstance(module, FEATURES_LAST + FEATURES_SECOND) or bias is None:
            continue
        if id(bias) in covered:
            continue  # one bias on two modules (BERT's masked-language head) counts once
        covered.add(id(bias))
        if softmax_keys and path.rpartition(".")[2] in _KEY_NAMES:
            continue
        layout[f"{path}.bias" if path else "bias"] = tuple(bias.shape)
    for name, parameter in model.named_parameters():
        if "bias" in name.rpartition(".")[2] and id(parameter) not in covered:
            raise ModelError(f"{name}: no supported layer owns this bias, so it cannot be trained")
    if not layout:
        raise ModelError("the model has no biases to train; choose one with bias terms")
    parameters = dict(model.named_parameters())
    for name in train_also:
        if name not in parameters:
            raise ModelError(f"{name}: the model has no such parameter")
        layout.setdefault(name, tuple(parameters[name].shape))
    return BiasLayout(tuple(layout), tuple(layout.values()))


def freeze(model: nn.Module) -> None:
    """Freeze every parameter: private gradients never pass through ``.grad``."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
        parameter.grad = None


def read_biases(model: nn.Module, layout: BiasLayout) -> NDArray[np.float32]:
    """The trained parameters as one vector [P]."""
    parts = [model.get_parameter(name).detach().float().cpu().reshape(-1) for name in layout.names]
    packed: NDArray[np.float32] = torch.cat(parts).numpy()
    return packed


def write_biases(model: nn.Module, layout: BiasLayout, vector: NDArray[np.float32]) -> None:
    """Write one vector [P] into the model; ModelError when its length is another."""
    if vector.shape != (layout.size,):
        raise ModelError(f"the layout holds {layout.size} values, the vector {vector.shape}")
    for name, shape, place in layout.slices():
        values = torch.from_numpy(vector[place].copy()).reshape(shape)
        model.get_parameter(name).data.copy_(values)


def _is_rotary(model: nn.Module) -> bool:
    """Rotated keys depend on the position, so that their bias does not cancel."""
    if any("rotary" in type(module).__name__.lower() for module in model.modules()):
        return True
    configs = [getattr(module, "config", None) for module in model.modules()]
    return any(
        getattr(config, field, None) for config in configs if config for field in _ROTARY_FIELDS
    )
