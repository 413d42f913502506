"""A second device, in plain memory: its tensors are computed by the CPU's kernels.

As with a GPU, an operation on tensors of two devices raises, and what one needs of the other has
to be moved. What is moved off the device is recorded.
"""

import functools
from typing import Any, Self

import torch
from torch import library as operations
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "second"
_kept: list[Any] = []  # whose operations last as long as they
left: list[torch.Tensor] = []  # what was moved off the device, in order


class SecondTensor(torch.Tensor):
    """A tensor there, around one of the CPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, raw: torch.Tensor) -> Self:
        return torch.Tensor._make_wrapper_subclass(
            cls,
            raw.size(),
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            device=f"{NAME}:0",
        )

    def __init__(self, raw: torch.Tensor) -> None:
        self.raw = raw

    @classmethod
    def __torch_dispatch__(
        cls, operation: Any, _types: Any, args: Any = (), named: Any = None
    ) -> Any:
        return _compute(operation, *args, **(named or {}))


def _raw(value: Any) -> Any:
    if isinstance(value, torch.device):
        return torch.device("cpu")
    return value.raw if isinstance(value, SecondTensor) else value


def _compute(operation: Any, *args: Any, **named: Any) -> Any:
    """An operation on a tensor there, or one that is to make one."""
    tensors = [value for value in tree_leaves((args, named)) if isinstance(value, torch.Tensor)]
    there = {id(tensor.raw): tensor for tensor in tensors if isinstance(tensor, SecondTensor)}
    asked = named.get("device")
    stays = asked.type == NAME if asked is not None else bool(there)
    others = [value for value in tensors if not isinstance(value, SecondTensor) and value.dim()]
    if operation is torch.ops.aten.copy_.default:
        stays = isinstance(args[0], SecondTensor)
    elif others and operation is not torch.ops.aten._to_copy.default:
        raise RuntimeError(f"{operation}: tensors of two devices")
    raw_args, raw_named = tree_map(_raw, (args, named))
    result = operation(*raw_args, **raw_named)
    if not stays and there:
        left.append(result)

    def wrapped(value: Any) -> Any:
        if not stays or not isinstance(value, torch.Tensor):
            return value
        return there[id(value)] if id(value) in there else SecondTensor(value)

    return tree_map(wrapped, result)


@functools.cache
def second_device() -> torch.device:
    """The device, from the first call on."""
    _setup_privateuseone_for_python_backend(NAME)
    everything, one = (vars(operations)["Library"](name, "IMPL") for name in ("_", "aten"))
    everything.fallback(_compute, "PrivateUse1")
    # Which torch.tensor() and advanced indices call in a way that finds no fallback.
    copy = functools.partial(_compute, torch.ops.aten._to_copy.default)
    one.impl("_to_copy", copy, "PrivateUse1")
    _kept.extend((everything, one))
    return torch.device(NAME, 0)
