"""What a task is: columns, settings, a model, losses and metrics.

A task is one class. Built-in ones are in ``registry``; a site's policy can name its own.
Imports without torch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from dpbitfit.data.columns import Kind
from dpbitfit.data.tables import Table
from dpbitfit.engine.linear_head import LinearHead
from dpbitfit.schema import Part

if TYPE_CHECKING:
    from torch import nn

    from dpbitfit.engine.biases import BiasLayout
    from dpbitfit.engine.training import PrivateRecords

Progress = Callable[[int, int], None]  # how much is done, of how much; it may raise to end the work


@dataclass(frozen=True)
class Metric:
    """A figure whose values per record are from 0 to ``bound``, a public constant.

    A site clips to it before it adds noise, so it is the sensitivity of a unit's mean.
    ``unit`` is that of the values, empty for a fraction.
    """

    bound: float
    unit: str = ""
    higher_is_better: bool = True


class TaskSettings(Part):
    """The settings of a task: public, part of the plan, each with its bounds and help text."""

    @property
    def trains_head(self) -> bool:
        """Whether the task's model has a linear head that trains: see ``LinearTask``."""
        return False


class Declaration(Protocol):
    """What is public of a task before a model is loaded. A built-in one imports without torch."""

    Settings: ClassVar[type[TaskSettings]]
    columns: ClassVar[Mapping[str, Kind]]  # that it reads, by its own names for them
    metrics: ClassVar[Mapping[str, Metric]]
    headline: ClassVar[str]  # the metric that a short report names

    @classmethod
    def load(cls, folder: str, settings: Any, labels: Sequence[str]) -> "Task":
        """Load a model with ``settings``, an instance of ``Settings``.

        Raises InputError when it cannot be loaded, ModelError when it cannot be trained
        privately.
        """


class Task(Declaration, Protocol):
    """A model with what it is trained for.

    *Formal guarantee*: training protects a unit if a record's loss and its padded length
    are functions of that record and the biases alone. ``attach`` checks the losses on
    ``probes``, ``private_records`` some of a site's own.
    """

    canonical_rows: int  # of this machine, in rows; set by ``attach``
    layout: "BiasLayout"  # what trains, its order in a vector [P]; ``attach`` leaves out of it
    pretrained: NDArray[np.float32]  # what trains [P], before any of it has; set by ``attach``

    @property
    def model(self) -> "nn.Module":
        """The model, frozen but for what ``layout`` names."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The public label set."""

    @property
    def digest(self) -> str:
        """SHA-256 of all that both sides must share: pretrained weights, labels, settings."""

    def probes(self) -> "PrivateRecords":
        """A few public records of each shape that occurs, on which ``attach`` checks the model."""

    def records(self, table: Table) -> "PrivateRecords":
        """A site's records as the training loop sees them, with the table's units.

        What is kept of a record must follow from it alone, to the bit: nothing is standardised
        by a mean over the table, nor are many records computed in one operation of torch, which
        rounds the last few values of a tensor otherwise.
        """

    def evaluate(
        self, records: Any, progress: Progress | None = None
    ) -> Mapping[str, NDArray[np.float64]]:
        """Each metric's value for each record [n], a function of that record alone, to the bit.

        ``records`` is what ``records`` returned; all metrics come from one pass.
        """

    def save(self, folder: Path) -> None:
        """Write the model in a format that others read."""

    def save_adapter(self, folder: Path) -> None:
        """Write only what trained, for those who have the pretrained model."""


@runtime_checkable
class PreparedRecords(Protocol):
    """Records of which a task computes something once, for all rounds."""

    def prepare(self, progress: Progress | None = None) -> None:
        """Compute it, unless that is done. ``progress`` is called with 0, often, and may end it."""


@runtime_checkable
class BoundedTask(Task, Protocol):
    """A task that knows how long a record can be, where its probes do not show it.

    ``attach`` sees that it fits the memory: in a round, it would tell that a site has one.
    """

    def longest(self) -> "PrivateRecords":
        """Public records, of which the first is as long as one can be."""


@runtime_checkable
class LinearTask(Task, Protocol):
    """A task whose model ends in a linear head, which phases of a plan may train alone.

    A record's logits are ``scale * (W phi + b)``, with features ``phi`` of a norm of at most
    1, and its loss is their cross-entropy.
    """

    @property
    def linear_head(self) -> LinearHead | None:
        """Where the head lies in the packed vector; None where it does not train."""

    def features(self, records: Any, progress: Progress | None = None) -> NDArray[np.float32]:
        """The features [n, d] of records, each a function of its record alone, to the bit."""

    def classes(self, records: Any) -> NDArray[np.int64]:
        """The class of each record [n], from 0."""
