"""What turns noised gradients into new values: post-processing, and so free.

To add an optimizer: a class here, with a ``name`` of its own, and its name in ``Optimizer``.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from dpbitfit.schema import Part
from dpbitfit.validate import LearningRate

# Kingma and Ba 2015, algorithm 1.
BETA_FIRST, BETA_SECOND, ADAM_EPSILON = 0.9, 0.999, 1e-8
WARM_UP = 0.25  # of the steps

Vector = NDArray[np.float64]


@dataclass
class OptimizerState:
    """How many steps were done, Adam's moments [P], and adaptive clipping norms [G].

    Functions of noised values only.
    """

    step: int = 0
    first: Vector | None = None
    second: Vector | None = None
    norms: Vector | None = None


class _Scheduled(Part):
    """The learning rate falls linearly to zero, so that the last steps add little noise.

    With ``warm-up`` it rises over the first quarter of the steps: the first of Adam's have
    moments of a few gradients, and move every value by a whole rate in the noise's direction.
    """

    schedule: Annotated[
        Literal["linear", "warm-up"],
        Field(description="linear: the learning rate falls to 0; warm-up: first it rises."),
    ] = "linear"
    learning_rate: LearningRate = 2e-2

    def _rate(self, step: int, steps: int) -> float:
        falling = max(0.0, 1 - step / steps)
        if self.schedule == "linear":
            return self.learning_rate * falling
        rising = (step + 1) / (WARM_UP * steps)
        return self.learning_rate * min(1.0, rising, falling / (1 - WARM_UP))


class Adam(_Scheduled):
    """Adam (Kingma and Ba 2015), without weight decay."""

    name: Literal["adam"] = "adam"

    def descend(
        self, values: Vector, gradient: Vector, state: OptimizerState, steps: int
    ) -> tuple[Vector, OptimizerState]:
        """New values [P] and state after one of ``steps`` noised gradients [P]."""
        step = state.step + 1
        first = np.zeros_like(gradient) if state.first is None else state.first
        second = np.zeros_like(gradient) if state.second is None else state.second
        first = BETA_FIRST * first + (1 - BETA_FIRST) * gradient
        second = BETA_SECOND * second + (1 - BETA_SECOND) * gradient**2
        unbiased = first / (1 - BETA_FIRST**step)
        scale = np.sqrt(second / (1 - BETA_SECOND**step)) + ADAM_EPSILON
        moved = values - self._rate(state.step, steps) * unbiased / scale
        return moved, OptimizerState(step, first, second)

    def usual_step(self, gradient_norm: float, parameters: int) -> float:
        """About how far, in L2 norm, one step moves ``parameters`` values (section 2.1).

        Whatever the gradients are, a value moves by less than 7.3 learning rates a step
        (by Cauchy-Schwarz on the moments).
        """
        return self.learning_rate * math.sqrt(parameters)


class Sgd(_Scheduled):
    """Plain gradient descent."""

    name: Literal["sgd"] = "sgd"

    def descend(
        self, values: Vector, gradient: Vector, state: OptimizerState, steps: int
    ) -> tuple[Vector, OptimizerState]:
        """New values [P] and state after one of ``steps`` noised gradients [P]."""
        moved = values - self._rate(state.step, steps) * gradient
        return moved, OptimizerState(state.step + 1)

    def usual_step(self, gradient_norm: float, parameters: int) -> float:
        """About how far, in L2 norm, one step moves with a gradient of that norm."""
        return self.learning_rate * gradient_norm


Optimizer = Annotated[Adam | Sgd, Field(discriminator="name")]
