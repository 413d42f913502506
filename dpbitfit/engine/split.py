"""A model split over several devices: each holds some of its layers, in order.

For a model that is too large for one device. What a layer reads is moved to its device, and
autograd moves the gradient back. A device holds the rows' part of its own layers' biases; where
every clipping group lies on one device, each part is clipped and added up where it lies, and
only the sums leave it (per-device clipping, He et al. 2023, arXiv 2212.01539).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from dpbitfit.errors import ModelError

if TYPE_CHECKING:
    from dpbitfit.engine.biases import BiasLayout


@dataclass(frozen=True)
class DevicePart:
    """What of the packed vector [P] lies on one device: at ``places`` [p], ascending."""

    device: torch.device
    sizes: dict[str, int]  # of each parameter, in the vector's order
    places: NDArray[np.int64]

    @property
    def size(self) -> int:
        """p, how many values it has."""
        return len(self.places)

    def by_name(self, rows: Tensor) -> dict[str, Tensor]:
        """Views of rows [B, p]: of each parameter, [B, n]."""
        values = torch.split(rows, [*self.sizes.values()], dim=1)
        return dict(zip(self.sizes, values, strict=True))


def parts(model: nn.Module, layout: "BiasLayout") -> list[DevicePart]:
    """The parts of a layout, in the order in which its parameters meet their devices."""
    slices: dict[torch.device, dict[str, slice]] = {}
    for name, _, place in layout.slices():
        slices.setdefault(model.get_parameter(name).device, {})[name] = place
    whole = np.arange(layout.size)
    return [
        DevicePart(
            device,
            {name: place.stop - place.start for name, place in own.items()},
            np.concatenate([whole[place] for place in own.values()]),
        )
        for device, own in slices.items()
    ]


def joined(rows: Sequence[Tensor], parts: Sequence[DevicePart]) -> Tensor:
    """Whole rows [B, P] of their parts [B, p], on the first one's device."""
    if len(parts) == 1:
        return rows[0]
    whole = rows[0].new_empty((len(rows[0]), sum(part.size for part in parts)))
    for own, part in zip(rows, parts, strict=True):
        whole[:, torch.from_numpy(part.places).to(whole.device)] = own.to(whole.device)
    return whole


def place(model: nn.Module, on: Sequence[torch.device]) -> None:
    """Move a model to its device, or to each of several the same share of its layers, in order.

    What comes before the layers goes to the first, what comes after them to the last. Raises
    ModelError where several are named and the model is not one stack of as many layers or more.
    """
    if len(on) == 1:
        model.to(on[0])
        return
    found = layer_stack(model)
    if found is None or len(found[2]) < len(on):
        raise ModelError(
            f"{type(model).__name__} is not one stack of {len(on)} layers or more, so that it "
            "cannot be split over devices: name one device"
        )
    own, layers = stages_of(model, len(on)), [*found[2]]
    inner = {id(module) for layer in layers for module in layer.modules()}
    for module in model.modules():
        if module._parameters or module._buffers:
            move = partial(Tensor.to, device=on[own[id(module)]])
            module._apply(move, recurse=False)  # type: ignore[no-untyped-call]
            if id(module) not in inner:
                module.register_forward_pre_hook(_to_its_device, with_kwargs=True)
    for layer in layers:
        layer.register_forward_pre_hook(_to_its_device, with_kwargs=True)


def devices_of(model: nn.Module) -> list[torch.device]:
    """Where a model's parameters lie; what it reads goes to the first."""
    return list(dict.fromkeys(parameter.device for parameter in model.parameters()))


def stages_of(model: nn.Module, count: int) -> dict[int, int]:
    """On which of ``count`` devices, from 0, each module of a model is, by the module's id.

    A model that is not one stack of layers is all on the first.
    """
    found = layer_stack(model)
    layers = [*found[2]] if found else []
    own: dict[int, int] = {}
    stage = 0
    for module in model.modules():
        own.setdefault(id(module), stage)
        if found and module is found[2]:
            for number, layer in enumerate(layers):
                part = number * count // len(layers)
                own |= {id(inside): part for inside in layer.modules()}
            stage = count - 1
    return own


def layer_stack(model: nn.Module) -> tuple[nn.Module, str, nn.ModuleList] | None:
    """Where a model's layers are: the module that has them, under which name, and they.

    None where it is not one stack of layers.
    """
    stacks = [
        (owner, name, part)
        for owner in model.modules()
        for name, part in owner.named_children()
        if isinstance(part, nn.ModuleList) and len(part) > 1
    ]
    inner = {id(part) for *_, stack in stacks for layer in stack for part in layer.modules()}
    outer = [place for place in stacks if id(place[2]) not in inner]
    return outer[0] if len(outer) == 1 else None


def _to_its_device(
    module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]
) -> tuple[Any, Any]:
    """What a module is given, on the device of what it computes with."""
    device = next(chain(module.parameters(), module.buffers())).device

    def move(value: Any) -> Any:
        return value.to(device) if isinstance(value, Tensor) else value

    moved: tuple[Any, Any] = tree_map(move, (args, named))
    return moved
