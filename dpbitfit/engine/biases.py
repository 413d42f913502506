"""Which parameters train: every bias, in a fixed order that both sides compare.

A bias is selected when it belongs to a layer whose bias gradient is a plain sum
of the gradients of its output, ``dL/db = sum_t dL/ds_t`` (Bu et al. 2022,
arXiv 2210.00036, equation 4). Key biases of a softmax attention are left out:
they add the same number to every score of a row, so their gradient is zero. What else
is left out is seen on public probes (``selfcheck.check_gradients``); a layout names it all.
"""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dpbitfit.errors import InputError, ModelError

# Whose features are in dimension 1 of their output; those of other layers are in the last.
FEATURES_SECOND = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.GroupNorm),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)
_MIXES_RECORDS = nn.modules.batchnorm._BatchNorm
_KEY_NAMES = ("key", "k_proj", "k_lin", "key_proj", "k")
_ROTARY_FIELDS = ("rope_theta", "rope_parameters", "rope_scaling", "rotary_pct", "rotary_dim")

# Why a bias is left out.
BELOW = "it is below the layers that train"
SOFTMAX_KEY = "it is a key bias of a softmax attention"
FROZEN_NORM = "its BatchNorm is frozen"
NO_OWNER = "no layer adds it to its output"
NOT_PER_RECORD = "its layer's output does not begin with the record"
UNREACHED = "no record reaches it"
BLOCKED = "its gradient is zero for every probe, as it is beneath zeros that do not train"
NOT_ITS_GRADIENT = "its per-record gradient differs from ordinary autograd's"
# Such a bias would train nothing, or is not to.
_NO_LOSS = (SOFTMAX_KEY, FROZEN_NORM, UNREACHED, BELOW)
LEAST_SHARE = 0.1  # of the bias values that have an effect


@dataclass(frozen=True)
class LeftOut:
    """A bias of ``size`` numbers that does not train, and why."""

    name: str
    size: int
    why: str


@dataclass(frozen=True)
class BiasLayout:
    """What trains: parameter names and shapes, in the order of the packed vector.

    ``left_out`` are the model's biases that do not. ``few_will_do`` where the caller has named what
    trains beside them, and no bias needs to.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    left_out: tuple[LeftOut, ...] = ()
    few_will_do: bool = False

    @property
    def size(self) -> int:
        """How many numbers train: P."""
        return sum(map(math.prod, self.shapes))

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
        for name, shape in self._pairs:
            stop = start + math.prod(shape)
            yield name, shape, slice(start, stop)
            start = stop

    def leaving_out(self, reasons: Mapping[str, str]) -> "BiasLayout":
        """The layout without the biases that are named, each for its reason."""
        stay = [(name, shape) for name, shape in self._pairs if name not in reasons]
        gone = [
            LeftOut(name, math.prod(shape), reasons[name])
            for name, shape in self._pairs
            if name in reasons
        ]
        names, shapes = zip(*stay, strict=True) if stay else ((), ())
        return replace(self, names=names, shapes=shapes, left_out=(*self.left_out, *gone))

    @property
    def left_out_by_reason(self) -> dict[str, list[str]]:
        """Names of what is left out; those that differ in numbers alone are one, and counted."""
        reasons: dict[str, Counter[str]] = {}
        for bias in self.left_out:
            name = re.sub(r"\.\d+\.", ".*.", bias.name)
            reasons.setdefault(bias.why, Counter())[name] += 1
        return {
            why: [name if count == 1 else f"{name} ({count})" for name, count in names.items()]
            for why, names in reasons.items()
        }

    def require_most(self) -> None:
        """ModelError where hardly any bias is left of those that would learn something."""
        lost = [bias for bias in self.left_out if bias.why not in _NO_LOSS]
        biases = sum(math.prod(shape) for name, shape in self._pairs if is_bias(name))
        total = biases + sum(bias.size for bias in lost)
        if biases > LEAST_SHARE * total or (self.few_will_do and self.names):
            return
        sizes: Counter[str] = Counter()
        for bias in lost or self.left_out:
            sizes[bias.why] += bias.size
        if not sizes:
            raise ModelError("the model has no biases to train; choose one with bias terms")
        why = max(sizes, key=sizes.__getitem__)
        example = next(bias.name for bias in self.left_out if bias.why == why)
        raise ModelError(
            f"of {total} bias values only {biases} can be trained soundly; {example}: {why}"
        )

    @property
    def _pairs(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        return zip(self.names, self.shapes, strict=True)


def select_biases(
    model: nn.Module,
    train_also: Sequence[str] = (),
    below: Collection[str] = (),
    few_will_do: bool = False,
) -> BiasLayout:
    """The layout of every bias that may train, and of the parameters in ``train_also``.

    These are weights of ``nn.Linear``, by their names in the model. Those named in ``below`` do not
    train, because the layers are not among those that do. ``few_will_do`` where it is no fault
    that hardly any bias may train.

    A bias belongs to a layer that adds it to its output, as far as the layer's kind says; the
    others are left out, to be trained from losses alone (``losscheck``). Raises InputError where
    ``train_also`` is no list, ModelError for what it names and cannot be trained, and,
    naming the layer, for a model of whose biases hardly any may train in any way, and for one
    that mixes records (BatchNorm in train mode, or without running statistics).
    """
    layout: dict[str, tuple[int, ...]] = {}
    reasons: dict[str, str] = {}
    covered: set[int] = set()
    softmax_keys = not _is_rotary(model)
    for path, module in model.named_modules():
        bias = module._parameters.get("bias")
        if isinstance(module, _MIXES_RECORDS) and module.training:
            raise ModelError(f"{path}: BatchNorm in train mode mixes records; call eval()")
        if isinstance(module, _MIXES_RECORDS) and module.running_mean is None:
            raise ModelError(
                f"{path}: BatchNorm without running statistics mixes records, in eval() too; "
                "choose GroupNorm or LayerNorm"
            )
        if bias is None or id(bias) in covered:
            continue  # one bias on two modules (BERT's masked-language head) counts once
        covered.add(id(bias))
        name = f"{path}.bias" if path else "bias"
        layout[name] = tuple(bias.shape)
        if isinstance(module, _MIXES_RECORDS):
            reasons[name] = FROZEN_NORM
        elif softmax_keys and path.rpartition(".")[2] in _KEY_NAMES:
            reasons[name] = SOFTMAX_KEY
    if isinstance(train_also, str):
        raise InputError(f"train_also must be a list of names: [{train_also!r}]")
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        if is_bias(name) and id(parameter) not in covered:
            layout[name] = tuple(parameter.shape)
            reasons[name] = NO_OWNER
    reasons |= {name: BELOW for name in layout if name in below}
    for name in train_also:
        _require_trainable(model, name)
        reasons.pop(name, None)
        layout.setdefault(name, tuple(parameters[name].shape))
    everything = BiasLayout(tuple(layout), tuple(layout.values()), few_will_do=few_will_do)
    selected = everything.leaving_out(reasons)
    if not any(bias.why == NO_OWNER for bias in selected.left_out):
        selected.require_most()
    return selected


def _require_trainable(model: nn.Module, name: str) -> None:
    """ModelError for a parameter that is neither a bias nor the weight of linear layers alone."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    if name not in parameters:
        raise ModelError(f"{name}: the model has no such parameter")
    same = [other for other, value in parameters.items() if value is parameters[name]]
    for other in same:
        path, _, key = other.rpartition(".")
        layer = model.get_submodule(path)
        if not (is_bias(other) or (isinstance(layer, nn.Linear) and key == "weight")):
            what = name if other == name else f"{name}, which is {other}"
            raise ModelError(
                f"{what} of {type(layer).__name__} cannot be trained: beside biases only weights "
                "of nn.Linear can"
            )
    if same[0] != name:
        raise ModelError(f"{name} is the same as {same[0]}, by which it is to be named")


def is_bias(name: str) -> bool:
    """Whether a parameter of that name is a bias."""
    return "bias" in name.rpartition(".")[2]


def freeze(model: nn.Module) -> None:
    """Freeze every parameter: private gradients never pass through ``.grad``."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
        parameter.grad = None


def require_precision(model: nn.Module, layout: BiasLayout) -> None:
    """ModelError where what trains is in less than float32, in which a small step is none."""
    for name in layout.names:
        kind = model.get_parameter(name).dtype
        if kind not in (torch.float32, torch.float64):
            raise ModelError(f"{name} is in {kind}, where small steps vanish: load it in float32")


def read_biases(model: nn.Module, layout: BiasLayout) -> NDArray[np.float32]:
    """The trained parameters as one vector [P]."""
    parts = [model.get_parameter(name).detach().float().cpu().reshape(-1) for name in layout.names]
    packed: NDArray[np.float32] = torch.cat([torch.empty(0), *parts]).numpy()
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
