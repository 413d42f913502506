"""Several processes of one site that take each step together: a GPU each, say.

Each holds the model and all records, and adds up the rows of its share of the sampled units. The
sums meet as integers, so that their sum is what one process adds up. The first process alone
draws samples and noise: each step has one draw of either, however many processes there are.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dpbitfit.errors import ModelError

Value = TypeVar("Value")


class Ranks:
    """This process among those that work together.

    All must call the same methods in the same order. Where one fails, all raise.

    Use, in a script that torchrun starts::

        torch.distributed.init_process_group("gloo")
        ranks = dpbitfit.Ranks(torch.distributed.group.WORLD)
        trainer = dpbitfit.PrivateTrainer(model.to(device), loss, ..., ranks=ranks)
    """

    def __init__(self, group: Any = None) -> None:
        """``group`` is a process group of torch.distributed with the backend gloo, because what is
        exchanged lies on the CPU; without one, this process works alone.
        """
        self._group, self._rank, self._count = group, 0, 1
        if group is not None:
            from torch import distributed

            self._rank, self._count = distributed.get_rank(group), distributed.get_world_size(group)

    def from_first(self, make: Callable[[], Value]) -> Value:
        """What ``make`` returns in the first process, which alone calls it."""
        first: Value = self._gather(lambda: None if self._rank else make())[0]
        return first

    def share(self, units: NDArray[np.int64]) -> NDArray[np.int64]:
        """This process's part of some units; each is in the part of one process."""
        return units[self._rank :: self._count]

    def total(self, add_up: Callable[[], NDArray[np.int64]]) -> NDArray[np.int64]:
        """The sum [D] of what ``add_up`` returns in each process."""
        total: NDArray[np.int64] = np.sum(self._gather(add_up), axis=0, dtype=np.int64)
        return total

    def require_alike(self, *facts: object) -> None:
        """ModelError where these are not the same in all processes."""
        if any(other != facts for other in self._gather(lambda: facts)):
            raise ModelError(
                "processes that train together need the same model, records and kind of device"
            )

    def _gather(self, compute: Callable[[], Any]) -> list[Any]:
        """What ``compute`` returns in each process, in their order."""
        if self._group is None:
            return [compute()]
        from torch import distributed

        error, own = None, None
        try:
            own = compute()
        except Exception as raised:
            error = raised
        results: list[Any] = [None] * self._count
        distributed.all_gather_object(results, (error is None, own), group=self._group)
        if error is not None:
            raise error
        if not all(worked for worked, _ in results):
            raise ModelError("another process of this training failed: see what it says")
        return [value for _, value in results]
