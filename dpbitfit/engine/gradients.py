"""Per-record bias gradients by hooks on outputs: one ordinary backward pass.

For ``s = a W + b`` the gradient of record i with respect to ``b`` is the sum of
``dL_i/ds`` over all dimensions but record and feature (Bu et al. 2022,
arXiv 2210.00036, equation 4): it needs no activation. LayerNorm, GroupNorm and
convolutions add their bias in the same way. The weight of a trained linear head
needs its input too; that one is small.

*Formal guarantee*: row i of the result depends on record i only, if the model
treats records independently. ``selfcheck.check_gradients`` tests that.
"""

from collections.abc import Callable
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.hooks import RemovableHandle

from dpbitfit.engine.biases import FEATURES_SECOND, NOT_PER_RECORD, BiasLayout, freeze
from dpbitfit.engine.finite import FiniteRows
from dpbitfit.engine.split import joined, parts
from dpbitfit.errors import ModelError


class _StartGraph(torch.autograd.Function):
    """The identity, through which autograd reaches a tensor that no parameter feeds.

    Marked dirty, so that it is no view and in-place activations may follow.
    """

    @staticmethod
    def forward(ctx: Any, output: Tensor, _anchor: Tensor) -> Tensor:
        ctx.mark_dirty(output)
        return output

    @staticmethod
    @once_differentiable
    def backward(_ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def _start(output: Tensor, anchor: Tensor) -> Tensor:
    started: Tensor = _StartGraph.apply(output, anchor)  # type: ignore[no-untyped-call]
    return started


class PerRecordGradients:
    """Collects one flat gradient row per record for the parameters of a layout.

    Freezes the whole model: no summed, unprotected ``.grad`` ever exists.

    Use::

        with PerRecordGradients(model, layout) as gradients:
            rows = gradients.rows(lambda: losses_of(batch), len(batch))  # [B, P]
    """

    def __init__(self, model: nn.Module, layout: BiasLayout) -> None:
        freeze(model)
        self._model = model
        self._layout = layout
        self._handles: list[RemovableHandle] = []
        self.parts = parts(model, layout)  # a row's, by device
        self._values: dict[str, Tensor] = {}  # of a pass's rows, [B, n] of each parameter
        self._finite = FiniteRows()
        device = next(model.parameters()).device
        self._anchor = torch.zeros((), requires_grad=True, device=device)

    def __enter__(self) -> Self:
        wanted = {id(self._model.get_parameter(name)): name for name in self._layout.names}
        for path, module in self._model.named_modules():
            trained = {
                key: wanted[id(value)]
                for key, value in module._parameters.items()
                if value is not None and id(value) in wanted
            }
            if trained:
                hook = self._hook(path, module, trained.get("bias"), trained.get("weight"))
                self._handles.append(module.register_forward_hook(hook))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._finite.warn()

    @property
    def width(self) -> int:
        """Of a row: P, every trained parameter."""
        return self._layout.size

    def rows(self, losses: Callable[[], Tensor], count: int) -> Tensor:
        """The gradient rows [B, P], float32, of ``count`` records; one backward pass.

        ``losses`` computes their losses [B]: all of the forward pass. A row that is not
        finite is zeroed: a unit may always contribute nothing. Raises ModelError when the
        losses are not one for each record.
        """
        return joined(self.rows_in_parts(losses, count), self.parts)

    def rows_in_parts(self, losses: Callable[[], Tensor], count: int) -> list[Tensor]:
        """The same rows as they lie on the model's devices: of each of its parts, [B, p]."""
        rows = [
            torch.zeros((count, part.size), dtype=torch.float32, device=part.device)
            for part in self.parts
        ]
        for part, values in zip(self.parts, rows, strict=True):
            self._values |= part.by_name(values)
        try:
            with torch.enable_grad():
                values = losses()
            if not isinstance(values, Tensor) or values.shape != (count,):
                raise ModelError("private training needs one loss for each record, not their mean")
            if values.grad_fn is None:
                raise ModelError("the loss does not depend on any trained bias")
            values.sum().backward()  # type: ignore[no-untyped-call]
        finally:
            self._values, self._anchor.grad = {}, None
        return self._finite.only(*rows)

    def begin(self, step: int) -> None:
        """Every step is alike."""

    def gradient(self, released: NDArray[np.float64]) -> NDArray[np.float64]:
        """A noised, averaged row [P] is the gradient [P]."""
        return released

    def _hook(
        self, path: str, module: nn.Module, bias: str | None, weight: str | None
    ) -> Callable[[nn.Module, tuple[Any, ...], Any], Any]:
        second = isinstance(module, FEATURES_SECOND)
        own = module._parameters.get("bias")
        width = 1 if second or own is None else own.dim()

        def hook(_module: nn.Module, inputs: tuple[Any, ...], whole: Any) -> Any:
            if not self._values or not torch.is_grad_enabled():
                return None
            values = self._values
            if not is_per_record(module, whole, len(next(iter(values.values())))):
                raise ModelError(f"{path}: {NOT_PER_RECORD}")
            output, *others = whole if isinstance(whole, tuple) else (whole,)
            started = output if output.requires_grad else _start(output, self._anchor)
            activation = inputs[0].detach() if weight is not None else None  # [B, ..., d]

            def collect(gradient: Tensor) -> None:
                if bias is not None:
                    last = gradient.dim()
                    summed = range(2, last) if second else range(1, last - width)
                    row = gradient.float().sum(list(summed)) if summed else gradient.float()
                    values[bias] += row.reshape(len(row), -1)
                if weight is not None and activation is not None:
                    after = gradient.float().reshape(len(gradient), -1, gradient.shape[-1])
                    before = activation.float().reshape(len(after), after.shape[1], -1)
                    outer = torch.einsum("btk,btd->bkd", after, before)  # [B, K, d]
                    values[weight] += outer.reshape(len(outer), -1)

            started.register_hook(collect)
            return (started, *others) if isinstance(whole, tuple) else started

        return hook


def is_per_record(module: nn.Module, output: Any, count: int) -> bool:
    """Whether a layer's output, or the first of several, is [B, ..., features] of B records."""
    first = output[0] if isinstance(output, tuple) and output else output
    bias = module._parameters.get("bias")
    if not isinstance(first, Tensor) or not first.dim() or len(first) != count:
        return False
    if isinstance(module, FEATURES_SECOND):
        return first.dim() > 1
    features = () if bias is None else tuple(bias.shape)
    return first.dim() > len(features) and first.shape[first.dim() - len(features) :] == features
