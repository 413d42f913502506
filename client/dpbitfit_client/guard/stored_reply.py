"""A round's reply as the site stores it: the noised change, and the optimizer's state.

The state is a function of noised gradients only; it stays at the site because
the next round needs it, not because it is secret.
"""

import io

import numpy as np
from numpy.typing import NDArray

from dpbitfit.engine.optimizers import OptimizerState


def pack(change: NDArray[np.float32], state: OptimizerState) -> bytes:
    """The change [P] and the state as bytes."""
    arrays: dict[str, NDArray[np.float64]] = {}
    if state.first is not None and state.second is not None:
        arrays = {"first": state.first, "second": state.second}
    buffer = io.BytesIO()
    np.savez(buffer, change=change, step=np.array(state.step), **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def change_of(payload: bytes) -> NDArray[np.float32]:
    """The change [P]."""
    with np.load(io.BytesIO(payload), allow_pickle=False) as arrays:
        change: NDArray[np.float32] = arrays["change"]
    return change


def state_of(payload: bytes | None) -> OptimizerState:
    """The optimizer's state after that reply; a fresh one before any."""
    if payload is None:
        return OptimizerState()
    with np.load(io.BytesIO(payload), allow_pickle=False) as arrays:
        return OptimizerState(int(arrays["step"]), arrays.get("first"), arrays.get("second"))
