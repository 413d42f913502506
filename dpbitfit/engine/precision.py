"""Products of a model's frozen weights in bfloat16, where the owner of the machine chooses that.

Units for bfloat16, a GPU's or a CPU's, multiply several times as fast as those for float32.
Rounded is what linear layers multiply, and their products. Biases, normalisation, attention,
the states between layers, the head, losses and rows stay in float32: a bias is added in it, so
that its gradient is a float32 sum.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dpbitfit.engine.biases import BiasLayout
from dpbitfit.engine.split import layer_stack
from dpbitfit.errors import InputError, ModelError

# A CPU's library chooses a kernel by the number of rows, and with it how a row's product is
# rounded: so it is always given as many.
CPU_ROWS = 512
_CPU_UNITS = ("amx_bf16", "avx512_bf16")


def use_bfloat16(model: nn.Module, layout: BiasLayout) -> None:
    """Have the linear layers of a model's stack multiply in bfloat16; their weights are kept so.

    Layers of which ``layout`` trains the weight multiply as before. Raises InputError on a device
    without units for it, where it would be many times slower, ModelError where the model is
    not one stack of layers.
    """
    for device in {parameter.device for parameter in model.parameters()}:
        if not has_units(device):
            raise InputError(
                f"torch {torch.__version__} knows of no units for bfloat16 of {device}, without "
                "which it would be many times slower: choose float32"
            )
    found = layer_stack(model)
    if found is None:
        raise ModelError(
            f"{type(model).__name__} is not one stack of layers, of which it is clear what may be "
            "rounded to bfloat16: choose float32"
        )
    trained = {id(model.get_parameter(name)) for name in layout.names}
    for layer in found[2].modules():
        transposed = type(layer).__name__ == "Conv1D"  # transformers' own, as in GPT-2
        weight = layer._parameters.get("weight")
        if weight is None or id(weight) in trained:
            continue
        if transposed or type(layer) is nn.Linear:
            weight.data = weight.data.bfloat16()
            layer.forward = partial(_forward, layer, transposed)


def has_units(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 itself, as far as torch knows."""
    if device.type == "cpu":
        seen: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # not in old torch
        return any(seen.get(unit, False) for unit in _CPU_UNITS)
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def _forward(layer: nn.Module, transposed: bool, inputs: Tensor) -> Tensor:
    weight, bias = layer._parameters["weight"], layer._parameters.get("bias")
    assert weight is not None
    factors = inputs, weight.T if transposed else weight
    product: Tensor = _Product.apply(*factors)  # type: ignore[no-untyped-call]
    return product if bias is None else product.add_(bias)


class _Product(torch.autograd.Function):
    """x W^T of inputs x [..., n] and a frozen weight W [m, n]; float32, but for the factors."""

    @staticmethod
    def forward(context: Any, inputs: Tensor, weight: Tensor) -> Tensor:
        context.save_for_backward(weight)
        return _multiply(inputs, weight)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (weight,) = context.saved_tensors
        return _multiply(gradient, weight.T), None


def _multiply(values: Tensor, weight: Tensor) -> Tensor:
    if values.device.type != "cpu":
        return functional.linear(values.bfloat16(), weight).float()
    product = values.new_empty((*values.shape[:-1], len(weight)))
    rows, made = values.reshape(-1, values.shape[-1]), product.view(-1, len(weight))
    for start in range(0, len(rows), CPU_ROWS):
        block = rows[start : start + CPU_ROWS].bfloat16()
        full = functional.pad(block, (0, 0, 0, CPU_ROWS - len(block)))
        made[start : start + CPU_ROWS] = functional.linear(full, weight)[: len(block)]
    return product
