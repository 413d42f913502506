"""A site's records as they were when its guard started: read, checked, and kept.

A coordinator's question must have the same answer whatever the records hold. So
whether they can be used is decided, and told to the site, before the guard
answers anything. A file that changes later counts from the guard's next start:
half a file can look whole, and only the site knows when it is complete.
"""

import os
from collections.abc import Callable, Iterator, Sequence

from dpbitfit.data.tables import Examples, read_examples, read_labels
from dpbitfit.errors import DpbitfitError, InputError
from dpbitfit_client.policy.policy import Dataset, Evaluation, Policy

Read = Callable[[Dataset, Dataset | Evaluation, Sequence[str]], Examples]


def read_part(dataset: Dataset, part: Dataset | Evaluation, labels: Sequence[str]) -> Examples:
    """A data set's records, for training or for evaluation.

    Raises InputError, with the row's number, where they are unusable; what a
    loader raises may quote a record, so only its type is told.
    """
    columns = (dataset.text_column, dataset.label_column, labels)
    try:
        return read_examples(part.source, *columns, part.unit_column)
    except DpbitfitError:
        raise
    except Exception as error:
        kind = type(error).__name__
        raise InputError(f"{part.source}: {kind} was raised: see what raises it") from error


class Records:
    """The label set and the records of every data set of a policy, each kept once."""

    def __init__(self, policy: Policy, read: Read = read_part) -> None:
        """Read them all; InputError for the first that are unusable."""
        self._datasets = policy.datasets
        self._read = read
        self._labels: dict[str, tuple[str, ...]] = {}
        self._examples: dict[str, Examples] = {}
        self._stamps = {name: _stamp(one) for name, one in self._datasets.items()}
        for name, one in self._datasets.items():
            self._labels[name] = read_labels(one.labels)
            for part in one.parts:
                self._examples[part.source] = read(one, part, self._labels[name])

    def labels(self, dataset: Dataset) -> tuple[str, ...]:
        """The public label set."""
        return self._labels[dataset.name]

    def examples(self, part: Dataset | Evaluation) -> Examples:
        """The records that train, or those that are only measured on."""
        return self._examples[part.source]

    def changes(self) -> Iterator[str]:
        """In words for the site, each data set whose files changed since this was last asked."""
        for name, one in self._datasets.items():
            stamp = _stamp(one)
            if stamp != self._stamps[name]:
                self._stamps[name] = stamp
                yield f"the files of {name} changed; served is what was read at the start"
                yield f"{name} as it is now: {self._verdict(one)}"

    def _verdict(self, dataset: Dataset) -> str:
        try:
            labels = read_labels(dataset.labels)
            for part in dataset.parts:
                self._read(dataset, part, labels)
        except InputError as error:
            return str(error)
        return "usable, from the guard's next start"


def _stamp(dataset: Dataset) -> list[tuple[int, ...] | None]:
    """What changes with a data set's files; None for one that is not there, or for no file."""
    found: list[tuple[int, ...] | None] = []
    for source in (dataset.labels, *(part.source for part in dataset.parts)):
        try:
            stat = os.stat(source) if os.path.isabs(source) else None
        except OSError:
            stat = None
        found.append(stat and (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return found
