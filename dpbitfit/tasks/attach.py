"""Loading a task, and the check that its model can be trained privately here."""

from collections.abc import Sequence
from functools import partial

import torch

from dpbitfit.engine import devices, split
from dpbitfit.engine.biases import read_biases
from dpbitfit.engine.determinism import deterministic
from dpbitfit.engine.gradients import PerRecordGradients
from dpbitfit.engine.losscheck import canonical_rows, check_losses
from dpbitfit.engine.memory import smallest
from dpbitfit.engine.precision import use_bfloat16
from dpbitfit.engine.selfcheck import check_gradients
from dpbitfit.errors import DpbitfitError, ModelError
from dpbitfit.tasks.base import BoundedTask, Declaration, Task, TaskSettings
from dpbitfit.tasks.models import reason


def attach(
    kind: type[Declaration],
    folder: str,
    settings: TaskSettings,
    labels: Sequence[str],
    device: str = "cpu",
    needs_gradients: bool = True,
    precision: devices.Precision = "float32",
    private: bool = True,
) -> Task:
    """Load a task, built-in or a site's own, and check it on its public probes.

    It computes on ``device``, as ``devices.choose_each`` names one or several, and multiplies in
    ``precision``: but for losses alone, whose differences need float32. What the model
    computes of a record without gradients is checked, as features and evaluations need, and
    where the plan ``needs_gradients``, the record's gradient too. At the coordinator, where no
    record is ``private``, it is only seen what trains, which takes little of the time.
    Biases that cannot be trained soundly leave its layout. Raises InputError when it cannot be
    loaded or the device is not there, ModelError when it cannot be trained privately on it.
    Nothing here sees a private record, so that what a library raises may be quoted.
    """
    on = devices.choose_each(device)
    try:
        task = kind.load(folder, settings, labels)
        if task is None:
            raise ModelError("the task's load returned nothing")
        for name in ("probes", "records", "evaluate", "save", "save_adapter"):
            if not hasattr(task, name):  # some are called when all is spent
                raise ModelError(f"the task has no {name!r}")
        split.place(task.model, on)
        if precision == "bfloat16" and needs_gradients:
            use_bfloat16(task.model, task.layout)
        _check(task, needs_gradients, private)
    except DpbitfitError:
        raise
    except Exception as error:
        raise ModelError(f"the model {folder!r} cannot be used: {reason(error)}") from error
    return task


def _compute_longest(task: BoundedTask, needs_gradients: bool) -> None:
    """Compute the smallest micro-batch of the longest record, as a round would.

    Raises ModelError where the memory is too small: in a round that would tell that a site has
    such a record. What is larger is cut (``memory``).
    """
    records, rows = task.longest(), task.canonical_rows
    losses = partial(records.losses, task.model, [0] * rows)
    with deterministic(), smallest(task.model):
        if needs_gradients:
            with PerRecordGradients(task.model, task.layout) as gradients:
                gradients.rows(losses, rows)
        else:
            with torch.no_grad():
                losses()


def _check(task: Task, needs_gradients: bool, private: bool) -> None:
    model = task.model.eval()  # dropout off
    probes = task.probes()
    on_probes = partial(probes.losses, model), probes.lengths
    if needs_gradients:
        task.layout, rows = check_gradients(model, task.layout, *on_probes, private)
        # What is computed without gradients may need more rows: with as many both are checked.
        while private and (more := canonical_rows(model, task.layout, *on_probes, rows)) > rows:
            task.layout, rows = check_gradients(model, task.layout, *on_probes, private, more)
        task.canonical_rows = rows
    else:
        task.layout, task.canonical_rows = check_losses(model, task.layout, *on_probes, private)
    if private and isinstance(task, BoundedTask):
        _compute_longest(task, needs_gradients)
    task.pretrained = read_biases(task.model, task.layout)
