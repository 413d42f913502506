"""A round's reply as the site stores it: what was released, and the optimizer's state.

The state is a function of noised gradients only; it stays at the site because
the next round of the phase needs it, not because it is secret.
"""

import io

import numpy as np
from numpy.typing import NDArray

from dpbitfit.engine.optimizers import OptimizerState

_ARRAYS = ("first", "second", "norms")  # of the state, in its order


def pack(released: NDArray[np.float32], state: OptimizerState, phase: int) -> bytes:
    """The noised change or sum [P], and the state in that phase of the plan, as bytes."""
    arrays = {name: getattr(state, name) for name in _ARRAYS}
    arrays = {name: array for name, array in arrays.items() if array is not None}
    steps = {"step": np.array(state.step), "phase": np.array(phase)}
    buffer = io.BytesIO()
    np.savez(buffer, released=released, **steps, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def released_of(payload: bytes) -> NDArray[np.float32]:
    """The noised change or sum [P]."""
    with np.load(io.BytesIO(payload), allow_pickle=False) as arrays:
        released: NDArray[np.float32] = arrays["released"]
    return released


def state_of(payload: bytes | None, phase: int) -> OptimizerState:
    """The optimizer's state after that reply; a fresh one before any, and in another phase."""
    if payload is None:
        return OptimizerState()
    with np.load(io.BytesIO(payload), allow_pickle=False) as arrays:
        if int(arrays["phase"]) != phase:
            return OptimizerState()
        return OptimizerState(int(arrays["step"]), *map(arrays.get, _ARRAYS))
