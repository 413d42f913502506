"""Which biases hooks can train soundly, as public probes show it.

Judged by the shapes of outputs in batches of fixed sizes, so that every machine leaves out the
same ones. It only ever takes away: what stays must pass the full check (``selfcheck``).
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dpbitfit.engine.biases import (
    BELOW,
    NOT_PER_RECORD,
    SOFTMAX_KEY,
    BiasLayout,
    freeze,
    is_bias,
)
from dpbitfit.engine.gradients import is_per_record
from dpbitfit.errors import ModelError

_SIZES = (2, 3, 5)  # of a batch: another first dimension equals one of these at most

_log = logging.getLogger("dpbitfit.engine")

Losses = Callable[[Sequence[int]], Tensor]
Rows = Mapping[str, Tensor]  # a probe's gradient of each parameter, flat, float32


def not_per_record(
    model: nn.Module, layout: BiasLayout, losses: Losses, groups: Iterable[Sequence[int]]
) -> dict[str, str]:
    """The parameters of layers whose output does not begin with the record, with that reason.

    ``groups`` are probes of one padded length each.
    """
    names = {id(model.get_parameter(name)): name for name in layout.names}
    reasons: dict[str, str] = {}
    batch: list[int] = []

    def see(name: str, layer: nn.Module, output: Any) -> None:
        if not is_per_record(layer, output, len(batch)):
            reasons[name] = NOT_PER_RECORD

    layers = [
        (names[id(parameter)], module)
        for module in model.modules()
        for parameter in module._parameters.values()
        if id(parameter) in names
    ]
    with watching(layers, see), torch.no_grad():
        for batch in _batches(groups):
            losses(batch)
    return reasons


def per_record_layers(
    model: nn.Module, losses: Losses, groups: Iterable[Sequence[int]]
) -> list[tuple[str, nn.Module]]:
    """The innermost modules whose output begins with the record, in batches of every size."""
    seen: set[str] = set()
    others: set[str] = set()
    batch: list[int] = []

    def see(path: str, _layer: nn.Module, output: Any) -> None:
        seen.add(path)
        first = output[0] if isinstance(output, tuple) and output else output
        if not (isinstance(first, Tensor) and first.dim() and len(first) == len(batch)):
            others.add(path)

    layers = innermost(model)
    with watching(layers, see), torch.no_grad():
        for batch in _batches(groups):
            losses(batch)
    return [(path, layer) for path, layer in layers if path in seen - others]


def innermost(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules without others inside, by their paths."""
    return [(path, module) for path, module in model.named_modules() if not [*module.children()]]


@contextmanager
def watching(
    layers: Iterable[tuple[str, nn.Module]], see: Callable[[str, nn.Module, Any], None]
) -> Iterator[None]:
    """Inside, ``see`` gets each layer's name, the layer and its output whenever it has computed."""

    def hook(name: str) -> Callable[..., None]:
        return lambda layer, _inputs, output: see(name, layer, output)

    handles = [layer.register_forward_hook(hook(name)) for name, layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _batches(groups: Iterable[Sequence[int]]) -> Iterator[list[int]]:
    """Probes of one padded length, of each size."""
    for group in groups:
        for size in _SIZES:
            yield [group[place % len(group)] for place in range(size)]


def by_autograd(model: nn.Module, layout: BiasLayout, losses: Losses, batch: Sequence[int]) -> Rows:
    """The gradients of a batch's first loss by ordinary autograd.

    Of the parameters that are in its graph; those of the others are no part of it.
    """
    parameters = [model.get_parameter(name) for name in layout.names]
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        with torch.enable_grad():
            loss = losses(batch)[0]
        gradients: Sequence[Tensor | None] = [None] * len(parameters)
        if loss.grad_fn is not None:
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    finally:
        freeze(model)
    home = parameters[0].device
    return {
        name: gradient.float().reshape(-1).to(home)
        for name, gradient in zip(layout.names, gradients, strict=True)
        if gradient is not None
    }


def without(layout: BiasLayout, reasons: Mapping[str, str]) -> BiasLayout:
    """The layout without some biases; ModelError where hardly any is left, or one is no bias."""
    for name, why in reasons.items():
        if not is_bias(name):  # the task itself has named it
            raise ModelError(f"{name}: {why}")
    layout = layout.leaving_out(reasons)
    layout.require_most()
    return layout


def log_left_out(layout: BiasLayout) -> None:
    """Say in the machine's own log which biases do not train, and why."""
    for why, names in layout.left_out_by_reason.items():
        level = logging.INFO if why in (BELOW, SOFTMAX_KEY) else logging.WARNING
        _log.log(level, "not trained, because %s: %s", why, ", ".join(names))
