"""A CPU that stands in for a device with little memory."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def limit_memory(
    module: nn.Module, tokens: int, fail: Callable[[], object] | None = None
) -> list[int]:
    """Have what reads ids [B, T] of more tokens run out of memory; lists what was tried.

    Where it does, it calls ``fail`` instead of raising torch's error for a GPU.
    """
    tried: list[int] = []

    def read(_module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        ids = named["input_ids"] if "input_ids" in named else inputs[0]
        tried.append(ids.numel())
        if ids.numel() > tokens and fail is not None:
            fail()
        elif ids.numel() > tokens:
            raise torch.OutOfMemoryError(f"tried to allocate {ids.numel()} tokens")

    module.register_forward_pre_hook(read, with_kwargs=True)
    return tried
