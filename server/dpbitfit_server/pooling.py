"""The coordinator's own steps: one a round, with the pooled noised sums of all sites.

Sums of several sites, each with the noise that its own guarantee needs, are what one
site with all records would release with more noise; so what is done with them here is
post-processing. The optimizer's state is a function of released values only.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dpbitfit.engine.linear_head import LinearHead
from dpbitfit.engine.optimizers import OptimizerState
from dpbitfit.errors import InputError
from dpbitfit.phases import SampledPhase
from dpbitfit.plan import Place, Plan

Vector = NDArray[np.float32]


class PooledSteps:
    """Takes the steps of the phases that pool; ``state`` is saved between rounds."""

    def __init__(self, plan: Plan, head: LinearHead | None) -> None:
        """InputError where a phase trains a head alone and the task trains none."""
        if head is None and any(phase.pools for phase in plan.phases):
            raise InputError("the plan trains a head alone: set head to 'trained'")
        self._head = head
        self._phase = -1
        self.state = OptimizerState()

    def step(
        self, place: Place, vector: Vector, sums: Sequence[Vector], sizes: Sequence[int]
    ) -> Vector:
        """The new packed vector [P] from the sites' noised sums [K * d] and declared sizes."""
        if isinstance(place.phase, SampledPhase) or self._head is None:
            raise InputError("the phase pools no sums")
        if place.position != self._phase:
            self._phase, self.state = place.position, OptimizerState()
        head = self._head.weights(vector)
        total = np.sum([released.astype(np.float64) for released in sums], axis=0)
        new, self.state = place.phase.step(
            head, total.reshape(head.shape), len(sums), sum(sizes), self.state
        )
        moved = vector.copy()
        moved[self._head.weight] = new.reshape(-1).astype(np.float32)
        return moved

    def saved(self) -> dict[str, NDArray[np.float64]]:
        """The state as arrays, by name."""
        moments = {"first": self.state.first, "second": self.state.second}
        arrays = {name: value for name, value in moments.items() if value is not None}
        return arrays | {"place": np.array([self._phase, self.state.step], np.float64)}

    def restore(self, arrays: dict[str, NDArray[np.float64]]) -> None:
        """Go on from a saved state."""
        self._phase, step = map(int, arrays["place"])
        self.state = OptimizerState(step, arrays.get("first"), arrays.get("second"))
