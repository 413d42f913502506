"""Where and how a model computes: the choice of the machine's owner, and never of a coordinator.

Imports without torch, which comes when a device is chosen.
"""

import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from dpbitfit.errors import InputError, ModelError

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "bfloat16"]  # in which a model's layers multiply

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
_WORKSPACES = (":4096:8", ":16:8")  # with which cuBLAS gives the same result each time


def choose(name: str) -> "torch.device":
    """The device of a name: ``cpu``, ``cuda``, ``cuda:N``, or ``auto``, a GPU where there is one.

    In a worker of Ray a GPU is there only if that worker was given a share of one. Raises
    InputError, with what to do, where the device is not there or does not work.
    """
    import torch

    if not re.fullmatch("cpu|auto|cuda(:[0-9]+)?", name):
        raise InputError(f"device {name!r} must be 'cpu', 'auto', 'cuda' or 'cuda:N'")
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InputError(
            f"device {name!r}: torch {torch.__version__} finds no GPU here: see nvidia-smi and "
            "CUDA_VISIBLE_DEVICES, install torch with CUDA, or choose 'cpu'"
        )
    if os.environ.setdefault(_WORKSPACE, _WORKSPACES[0]) not in _WORKSPACES:
        raise InputError(f"the environment's {_WORKSPACE} must be {_WORKSPACES[0]}, or not set")
    device = torch.device("cuda", int(name.partition(":")[2] or 0))
    count = torch.cuda.device_count()
    if device.index >= count:
        raise InputError(f"device {name!r}: there are {count} GPUs, numbered from 0")
    try:
        require_working(device)
    except ModelError as error:
        raise InputError(str(error)) from error
    return device


def choose_each(names: str) -> "list[torch.device]":
    """The devices of a model that is split over some (``cuda:0+cuda:1``), in the model's order.

    Each is named as ``choose`` does, which says what is raised.
    """
    return [choose(name) for name in names.split("+")]


def require_working(device: "torch.device") -> None:
    """ModelError where a GPU computes nothing any more, as after some faults until a restart.

    To be called before a round is charged, which could not be worked.
    """
    if device.type == "cpu":
        return
    import torch

    try:
        works = (torch.ones(1, device=device) + 1).item() == 2
    except RuntimeError as error:
        raise ModelError(f"{device} does not work: see nvidia-smi, and start anew") from error
    if not works:
        raise ModelError(f"{device} computes wrongly: use another device")


def kinds_of(places: "Sequence[torch.device]") -> list[str]:
    """What kernels follow from: each device's description, whichever of several it is."""
    return [describe(device).removeprefix(f"{device}: ") for device in places]


def describe(device: "torch.device") -> str:
    """A device in words: its name, memory and capability."""
    import torch

    if device.type == "cpu":
        return f"CPU, one of {os.cpu_count()} cores"  # see ``determinism``
    seen = torch.cuda.get_device_properties(device)
    return (
        f"{device}: {seen.name}, {seen.total_memory / 2**30:.0f} GiB, "
        f"compute capability {seen.major}.{seen.minor}"
    )
