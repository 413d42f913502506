"""Loading a task, and the check that its model can be trained privately here."""

from collections.abc import Sequence

from dpbitfit.engine import devices
from dpbitfit.engine.biases import read_biases
from dpbitfit.engine.selfcheck import check_gradients
from dpbitfit.errors import DpbitfitError, ModelError
from dpbitfit.tasks.base import Declaration, Task, TaskSettings
from dpbitfit.tasks.models import reason


def attach(
    kind: type[Declaration],
    folder: str,
    settings: TaskSettings,
    labels: Sequence[str],
    device: str = "cpu",
) -> Task:
    """Load a task, built-in or a site's own, and check its gradients on its public probes.

    It computes on ``device``, as ``devices.choose`` names it. Biases that cannot be trained
    soundly leave its layout. Raises InputError when it cannot be loaded or the device is not
    there, ModelError when it cannot be trained privately on it. Nothing here sees a private
    record, so that what a library raises may be quoted.
    """
    place = devices.choose(device)
    try:
        task = kind.load(folder, settings, labels)
        if task is None:
            raise ModelError("the task's load returned nothing")
        task.model.to(place)
        _check(task)
    except DpbitfitError:
        raise
    except Exception as error:
        raise ModelError(f"the model {folder!r} cannot be used: {reason(error)}") from error
    return task


def _check(task: Task) -> None:
    task.model.eval()  # dropout off
    probes = task.probes()
    task.layout, task.canonical_rows = check_gradients(
        task.model,
        task.layout,
        lambda chosen: probes.losses(task.model, chosen),
        probes.lengths,
    )
    task.pretrained = read_biases(task.model, task.layout)
