"""Features and evaluations come without gradients: a model may go another way there."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar, Self

import pytest
import torch
from torch import Tensor, nn

from dpbitfit.errors import ModelError
from dpbitfit.tasks.attach import attach

from ...support.slope import Records, Slope, SlopeSettings

Way = Callable[[Tensor], Tensor]


class TwoWays(nn.Module):
    """What follows ``without`` where no gradient is asked for, and else ``with_gradients``."""

    def __init__(self, below: nn.Module, with_gradients: Way, without: Way) -> None:
        super().__init__()
        self.below, self._ways = below, (without, with_gradients)

    def forward(self, numbers: Tensor) -> Tensor:
        output: Tensor = self.below(numbers)
        return self._ways[torch.is_grad_enabled()](output)


class TwoWaysSlope(Slope):
    with_gradients: ClassVar[Way] = staticmethod(lambda output: output)
    without: ClassVar[Way]

    @classmethod
    def load(cls, folder: str, settings: SlopeSettings, labels: Sequence[str]) -> Self:
        whole = Slope.load(folder, settings, labels).model
        return cls(
            nn.Sequential(TwoWays(whole[:2], cls.with_gradients, cls.without), whole[2]),
            settings.units,
        )


class Mixing(TwoWaysSlope):
    without = staticmethod(lambda output: output + output.mean(dim=0))


class OtherForFewRows(TwoWaysSlope):
    without = staticmethod(lambda output: output * (1 + 1e-6 * (len(output) < 16)))


class OtherForThreeTimesAsMany(OtherForFewRows):
    """Which gradients of fewer rows do not show."""

    with_gradients = staticmethod(lambda output: output * (1 + 1e-6 * (len(output) == 48)))


def test_a_model_that_mixes_records_only_without_gradients_is_refused() -> None:
    with pytest.raises(ModelError, match="a record's loss changes with the other records"):
        attach(Mixing, "", SlopeSettings(), ())


@pytest.mark.parametrize("kind", [Mixing, OtherForFewRows])
def test_where_no_record_is_private_none_is_compared_with_others(kind: type[Slope]) -> None:
    task = attach(kind, "", SlopeSettings(), (), private=False)
    assert task.canonical_rows == 1
    assert task.layout.size == attach(Slope, "", SlopeSettings(), ()).layout.size


def test_a_micro_batch_has_as_many_rows_as_either_way_needs() -> None:
    assert attach(Slope, "", SlopeSettings(), ()).canonical_rows < 16
    assert attach(OtherForFewRows, "", SlopeSettings(), ()).canonical_rows == 16
    assert attach(OtherForThreeTimesAsMany, "", SlopeSettings(), ()).canonical_rows == 32


class Longest(Slope):
    """Which tells of the micro-batches of its longest record."""

    seen: ClassVar[list[tuple[int, bool]]] = []
    fail: ClassVar[Callable[[], object]] = staticmethod(lambda: None)

    def longest(self) -> Records:
        records = self.probes()
        losses = records.losses

        def told(model: nn.Module, chosen: Sequence[int]) -> Tensor:
            self.seen.append((len(chosen), torch.is_grad_enabled()))
            self.fail()
            return losses(model, chosen)

        records.losses = told  # type: ignore[method-assign]
        return records


class LongestOfManyRows(Longest, OtherForFewRows):
    """Which are at least 16."""


class LongestDoesNotFit(Longest):
    fail = staticmethod(lambda: torch.empty(1 << 48))


def test_the_smallest_micro_batch_of_the_longest_record_is_computed_as_a_round_does() -> None:
    """Fails where it is of one row, or without gradients: both take less memory."""
    Longest.seen.clear()
    attach(LongestOfManyRows, "", SlopeSettings(), ())
    attach(LongestOfManyRows, "", SlopeSettings(), (), needs_gradients=False)
    attach(LongestOfManyRows, "", SlopeSettings(), (), private=False)
    assert Longest.seen == [(16, True), (16, False)]


def test_where_the_longest_record_does_not_fit_the_memory_no_round_begins() -> None:
    for gradients in (True, False):
        with pytest.raises(ModelError, match="too little memory for the smallest micro-batch"):
            attach(LongestDoesNotFit, "", SlopeSettings(), (), needs_gradients=gradients)


def test_what_a_task_lacks_is_said_before_anything_is_spent() -> None:
    class Unsaved(Slope):
        @classmethod
        def load(cls, *_: Any) -> Any:
            return SimpleNamespace(probes=1, records=1, evaluate=1, save=1)

    with pytest.raises(ModelError, match="the task has no 'save_adapter'"):
        attach(Unsaved, "", SlopeSettings(), ())
