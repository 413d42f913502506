"""What a site's own task makes of a table is seen to protect the table's units."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dpbitfit.data.tables import Table
from dpbitfit.engine import batches
from dpbitfit.errors import ModelError
from dpbitfit.tasks.private_records import private_records

PERSONS = [f"person {number // 3}" for number in range(60)]
WIDTH = 5

Make = Callable[[Tensor], Tensor]
Units = Callable[[Table], list[NDArray[np.int64]]]


class Numbers:
    """Rows of numbers [n, WIDTH], as some function makes them."""

    canonical_rows = 2

    def __init__(self, table: Table, make: Make, units: Units) -> None:
        self.values = make(torch.tensor([table.columns[f"x{i}"] for i in range(WIDTH)]).T)
        self.units = units(table)
        self.lengths = np.ones(len(table), dtype=np.int64)

    def losses(self, model: nn.Module, records: Sequence[int]) -> Tensor:
        return torch.sigmoid(model(self.values[list(records)])).sum(dim=1)


def made(
    make: Make = lambda values: values, units: Units = Table.unit_records, persons: int = 20
) -> Any:
    """The records of persons with three rows each, by a task with these functions."""
    values = np.random.default_rng(0).uniform(1.0, 4.0, (WIDTH, 3 * persons))
    columns = {f"x{i}": row.astype(np.float32).tolist() for i, row in enumerate(values)}
    records = lambda table: Numbers(table, make, units)  # noqa: E731
    probes = lambda: SimpleNamespace(lengths=np.array([2]))  # noqa: E731
    task: Any = SimpleNamespace(model=nn.Linear(WIDTH, 2), records=records, probes=probes)
    return private_records(task, Table(columns, PERSONS[: 3 * persons]))


def test_records_that_hold_what_each_row_says_are_returned_as_they_are() -> None:
    records = made(lambda values: values * 2)
    assert len(records.units) == 20
    assert len(records.values) == 60
    assert made(persons=0).units == []  # of a simulated site


def by_row(table: Table) -> list[NDArray[np.int64]]:
    """Without regard to persons."""
    return [np.array([number]) for number in range(len(table))]


def overlapping(table: Table) -> list[NDArray[np.int64]]:
    """The first record belongs to the last person, too."""
    *others, last = table.unit_records()
    return [*others, np.append(last, 0)]


def without_a_record(table: Table) -> list[NDArray[np.int64]]:
    """Of the last person."""
    *others, last = table.unit_records()
    return [*others, last[:-1]]


def with_an_empty_one(table: Table) -> list[NDArray[np.int64]]:
    """Whose records are the first person's."""
    first, second, *others = table.unit_records()
    return [np.concatenate([first, second]), np.array([], dtype=np.int64), *others]


@pytest.mark.parametrize("units", [by_row, overlapping, without_a_record, with_an_empty_one])
def test_units_that_are_not_the_tables_are_refused(units: Units) -> None:
    with pytest.raises(ModelError, match="units"):
        made(units=units)


def test_units_in_another_order_are_refused() -> None:
    """As those of a set are, in each process another."""
    with pytest.raises(ModelError, match="changes with the other records"):
        made(units=lambda table: table.unit_records()[::-1])


def standardised(values: Tensor) -> Tensor:
    """By the mean of all records."""
    return values - values.mean(dim=0)


def shifted_by_a_last_bit(values: Tensor) -> Tensor:
    """Where others are in the table: torch rounds the last few values of a tensor otherwise."""
    return values if len(values) == 3 else torch.nextafter(values, torch.tensor(9.0))


@pytest.mark.parametrize("make", [standardised, shifted_by_a_last_bit])
def test_records_that_change_with_the_others_are_refused(make: Make) -> None:
    with pytest.raises(ModelError, match="changes with the other records"):
        made(make)


def test_records_are_made_on_one_thread() -> None:
    """On several, what an operation makes of a row would follow from how many there are."""
    seen, before = list[int](), torch.get_num_threads()

    def watched(values: Tensor) -> Tensor:
        seen.append(torch.get_num_threads())
        return values

    torch.set_num_threads(before + 1)
    try:
        made(watched)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {1}


def test_where_shapes_are_few_each_length_has_been_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "has_few_shapes", lambda _model: True)
    with pytest.raises(ModelError, match="every length that records have"):
        made()
