"""What a site stores of a round: the released values, and a state that is one phase's own."""

import numpy as np
import pytest
from dpbitfit_client.guard import stored_reply

from dpbitfit.engine.optimizers import OptimizerState

RELEASED = np.arange(3, dtype=np.float32)
MOMENTS = np.array([0.5, 0.25]), np.array([1.0, 2.0])
NORMS = np.array([0.1, 3.0, 1e-9])


@pytest.mark.parametrize("arrays", [(None, None, None), (*MOMENTS, None), (None, None, NORMS)])
def test_what_was_released_and_the_state_come_back(arrays: tuple[np.ndarray | None, ...]) -> None:
    """Adam's moments and adaptive clipping norms, to the bit."""
    payload = stored_reply.pack(RELEASED, OptimizerState(7, *arrays), 2)
    assert (stored_reply.released_of(payload) == RELEASED).all()
    state = stored_reply.state_of(payload, 2)
    assert state.step == 7
    for before, after in zip(arrays, (state.first, state.second, state.norms), strict=True):
        assert after is None if before is None else (after == before).all()


def test_a_phase_begins_with_a_fresh_state() -> None:
    payload = stored_reply.pack(RELEASED, OptimizerState(7, *MOMENTS, NORMS), 1)
    for state in (stored_reply.state_of(payload, 2), stored_reply.state_of(None, 1)):
        assert state == OptimizerState()
