"""A site's records as they were when its guard started: read and checked once.

The answer to a coordinator's question must be the same whatever the records hold. So
whether they can be used is decided, and reported to the site, before the guard
answers anything. A file that changes later counts from the guard's next start:
half a file can look whole, and only the site knows when it is complete.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence

from dpbitfit.data.columns import Kind
from dpbitfit.data.labels import read_labels
from dpbitfit.data.tables import Table, read_table
from dpbitfit.errors import DpbitfitError, InputError
from dpbitfit.tasks.base import Declaration
from dpbitfit.tasks.registry import resolve
from dpbitfit_client.policy.policy import Dataset, Evaluation, Policy

Read = Callable[[Dataset, Dataset | Evaluation, Sequence[str], Mapping[str, Kind]], Table]


def read_part(
    dataset: Dataset,
    part: Dataset | Evaluation,
    labels: Sequence[str],
    columns: Mapping[str, Kind],
) -> Table:
    """A data set's records, for training or for evaluation; ``columns`` are its task's.

    Raises InputError, with the row's number, where they are unusable; what else is
    raised may quote a record, so only its type is reported.
    """
    names = {"text": dataset.text_column, "label": dataset.label_column}
    try:
        return read_table(part.source, columns, labels, names, part.unit_column)
    except DpbitfitError:
        raise
    except Exception as error:
        kind = type(error).__name__
        raise InputError(f"{part.source}: {kind} was raised: see what raises it") from error


class Records:
    """The label set and the records of every data set of a policy, each read once."""

    def __init__(self, policy: Policy, read: Read = read_part) -> None:
        """Read them all; InputError for the first that are unusable.

        Raises PolicyError for a data set whose task is neither built in nor the policy's,
        InputError for one whose task does not have a metric that the policy allows.
        """
        self._datasets = policy.datasets
        self._read = read
        self._tasks = {
            name: resolve(dataset.task, policy.tasks) for name, dataset in self._datasets.items()
        }
        self._labels: dict[str, tuple[str, ...]] = {}
        self._tables: dict[str, Table] = {}
        self._stamps = {name: _stamp(dataset) for name, dataset in self._datasets.items()}
        for name, dataset in self._datasets.items():
            _check_metrics(dataset, self._tasks[name])
            self._labels[name] = read_labels(dataset.labels)
            for part in dataset.parts:
                self._tables[part.source] = self._table(dataset, part, self._labels[name])

    def labels(self, dataset: Dataset) -> tuple[str, ...]:
        """The public label set."""
        return self._labels[dataset.name]

    def table(self, part: Dataset | Evaluation) -> Table:
        """The records that train, or those that are only evaluated on."""
        return self._tables[part.source]

    def changes(self) -> Iterator[str]:
        """In words for the site, each data set whose files changed since the last call."""
        for name, dataset in self._datasets.items():
            stamp = _stamp(dataset)
            if stamp != self._stamps[name]:
                self._stamps[name] = stamp
                yield f"the files of {name} changed; served is what was read at the start"
                yield f"{name} as it is now: {self._verdict(dataset)}"

    def _table(self, dataset: Dataset, part: Dataset | Evaluation, labels: Sequence[str]) -> Table:
        return self._read(dataset, part, labels, self._tasks[dataset.name].columns)

    def _verdict(self, dataset: Dataset) -> str:
        try:
            labels = read_labels(dataset.labels)
            for part in dataset.parts:
                self._table(dataset, part, labels)
        except InputError as error:
            return str(error)
        return "usable, from the guard's next start"


def _check_metrics(dataset: Dataset, task: type[Declaration]) -> None:
    allowed = dataset.evaluation.metrics if dataset.evaluation else {}
    for metric in allowed:
        if metric not in task.metrics:
            raise InputError(
                f"datasets.{dataset.name}.evaluation.metrics: the task {dataset.task!r} "
                f"has no metric {metric!r}"
            )


def _stamp(dataset: Dataset) -> list[tuple[int, ...] | None]:
    """What changes with a data set's files; None for one that is not there, or for no file."""
    stamps: list[tuple[int, ...] | None] = []
    for source in (dataset.labels, *(part.source for part in dataset.parts)):
        try:
            stat = os.stat(source) if os.path.isabs(source) else None
        except OSError:
            stat = None
        stamps.append(stat and (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return stamps
