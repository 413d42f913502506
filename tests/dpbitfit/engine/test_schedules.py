"""How the learning rate changes over the steps of a phase."""

import numpy as np
import pytest

from dpbitfit.engine.optimizers import OptimizerState, Sgd

RATE = 0.5


def rates(schedule: str, steps: int) -> list[float]:
    """By how far each step moves along a gradient of 1."""
    optimizer = Sgd.checked(schedule=schedule, learning_rate=RATE)
    values, state, moves = np.zeros(1), OptimizerState(), []
    for _ in range(steps):
        before = values
        values, state = optimizer.descend(values, np.ones(1), state, steps)
        moves.append(float((before - values)[0]))
    return moves


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 60])
def test_linear_falls_from_the_learning_rate(steps: int) -> None:
    moves = rates("linear", steps)
    np.testing.assert_allclose(moves, RATE * np.linspace(1, 0, steps, endpoint=False))


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 60])
def test_warm_up_rises_over_a_quarter_and_then_falls(steps: int) -> None:
    moves = rates("warm-up", steps)
    top = moves.index(max(moves))
    assert min(moves) > 0
    assert max(moves) <= RATE
    assert top <= steps / 4
    assert moves[: top + 1] == sorted(moves[: top + 1])
    assert moves[top:] == sorted(moves[top:], reverse=True)
    if steps == 60:
        assert moves[0] == pytest.approx(RATE / 15)
        assert sum(moves) == pytest.approx(sum(rates("linear", steps)), rel=0.05)
