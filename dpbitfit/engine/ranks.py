"""Several processes of one site that take each step together: a GPU each, say.

Each holds the model and all records, and adds up the rows of its share of the sampled units. The
sums meet as integers, so that their sum is what one process adds up. The first process alone
draws samples and noise: each step has one draw of either, however many processes there are.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dpbitfit.errors import ModelError, WorkerError

Value = TypeVar("Value")


class Group(ABC):
    """Processes that show each other values; this is number ``rank``, from 0, of ``count``."""

    rank: int
    count: int

    @abstractmethod
    def gather(self, value: Any) -> list[Any]:
        """The value of each process, in their order; all must call it equally often."""


class Ranks:
    """This process among those that work together.

    All must call the same methods in the same order. Where one fails, all raise.

    Use, in a script that torchrun starts::

        torch.distributed.init_process_group("gloo")
        ranks = dpbitfit.Ranks(torch.distributed.group.WORLD)
        trainer = dpbitfit.PrivateTrainer(model.to(device), loss, ..., ranks=ranks)
    """

    def __init__(self, group: Any = None) -> None:
        """``group`` is a Group, or a process group of torch.distributed with the backend gloo,
        because what is exchanged lies on the CPU; without one, this process works alone.
        """
        if not isinstance(group, Group):
            group = _Alone() if group is None else _Distributed(group)
        self._group: Group = group

    def from_first(self, make: Callable[[], Value]) -> Value:
        """What ``make`` returns in the first process, which alone calls it."""
        first: Value = self._gather(lambda: None if self._group.rank else make())[0]
        return first

    def share(self, units: NDArray[np.int64]) -> NDArray[np.int64]:
        """This process's part of some units; each is in the part of one process."""
        return units[self._group.rank :: self._group.count]

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
        try:
            own = compute()
        except Exception as error:
            self._group.gather((type(error).__name__, None))
            raise
        results = self._group.gather(("", own))
        if failures := sorted({failure for failure, _ in results} - {""}):
            raise WorkerError(
                f"another process of this training failed ({', '.join(failures)}): see what it "
                "says, and whether the same fails on one device"
            )
        return [value for _, value in results]


class _Alone(Group):
    rank, count = 0, 1

    def gather(self, value: Any) -> list[Any]:
        return [value]


class _Distributed(Group):
    """A process group of torch.distributed."""

    def __init__(self, group: Any) -> None:
        from torch import distributed

        self._distributed, self._group = distributed, group
        self.rank, self.count = distributed.get_rank(group), distributed.get_world_size(group)

    def gather(self, value: Any) -> list[Any]:
        values: list[Any] = [None] * self.count
        self._distributed.all_gather_object(values, value, group=self._group)
        return values
