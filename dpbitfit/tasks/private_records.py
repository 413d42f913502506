"""A site's table as its task's records, which a task of the site's own may make as it likes."""

from typing import Any

import torch
from torch import Tensor, nn

from dpbitfit.data.tables import Table
from dpbitfit.engine import batches
from dpbitfit.engine.determinism import deterministic
from dpbitfit.engine.screening import innermost, watching
from dpbitfit.engine.training import PrivateRecords
from dpbitfit.errors import ModelError
from dpbitfit.tasks.base import Task

COMPARED = 8  # units, at least, are made a second time, without the others


@deterministic()
def private_records(task: Task, table: Table) -> PrivateRecords:
    """What ``task.records`` makes of a table, once it is seen to protect the table's units.

    *Formal guarantee*: the units are the table's own, with every record in exactly one, so that
    what a unit adds to a sum is clipped once. Of some units, spread over the table, a record's
    length, its loss and what layers make of it are the same, to the bit, where the others are not
    there: a mean over all records, say, is noticed. Raises ModelError where one of these does not
    hold, and what the task does.
    """
    records = task.records(table)
    units = table.unit_records()
    if not _have_units(records, len(units)):
        raise ModelError(
            "the task's records must have the units of table.unit_records(), in that order, "
            "with every record in exactly one and none without a record"
        )
    few = batches.has_few_shapes(task.model)
    if few and not {*records.lengths} <= {*task.probes().lengths}:
        raise ModelError("on this device every length that records have needs a probe")
    for unit in range(0, len(units), max(1, len(units) // COMPARED)):
        alone = task.records(table.take(units[unit]))
        among_all = _computed(task, records, int(records.units[unit][0]))
        by_itself = _computed(task, alone, int(alone.units[0][0]))
        alike = map(torch.equal, among_all, by_itself)
        if len(among_all) != len(by_itself) or not all(alike):
            raise ModelError(
                "a record's length or loss changes with the other records of the table: what "
                "the task's records hold of one must follow from that one alone, to the bit"
            )
    return records


def _have_units(records: PrivateRecords, units: int) -> bool:
    """Whether there are ``units`` units, none empty, and every record is in exactly one."""
    held = sorted(int(record) for unit in records.units for record in unit)
    every = held == list(range(len(records.lengths)))
    return every and len(records.units) == units and all(map(len, records.units))


def _computed(task: Task, records: PrivateRecords, number: int) -> list[Tensor]:
    """A record's length, and what the layers and the loss make of a batch of copies of it."""
    computed = [torch.tensor(records.lengths[number])]

    def see(_path: str, _layer: nn.Module, output: Any) -> None:
        if isinstance(output, Tensor):
            computed.append(output.nan_to_num())

    with watching(innermost(task.model), see), torch.no_grad():
        losses = records.losses(task.model, [number] * records.canonical_rows)
    return [*computed, losses.nan_to_num()]
