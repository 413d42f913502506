"""Loading a task, and the check that its model can be trained privately here."""

from collections.abc import Callable, Sequence

from dpbitfit.engine import devices
from dpbitfit.engine.biases import BiasLayout, read_biases
from dpbitfit.engine.losscheck import check_losses
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
    needs_gradients: bool = True,
) -> Task:
    """Load a task, built-in or a site's own, and check it on its public probes.

    It computes on ``device``, as ``devices.choose`` names it. Where the plan
    ``needs_gradients``, those of single records are checked, and otherwise their losses.
    Biases that cannot be trained soundly leave its layout. Raises InputError when it cannot be
    loaded or the device is not there, ModelError when it cannot be trained privately on it.
    Nothing here sees a private record, so that what a library raises may be quoted.
    """
    place = devices.choose(device)
    try:
        task = kind.load(folder, settings, labels)
        if task is None:
            raise ModelError("the task's load returned nothing")
        task.model.to(place)
        _check(task, check_gradients if needs_gradients else check_losses)
    except DpbitfitError:
        raise
    except Exception as error:
        raise ModelError(f"the model {folder!r} cannot be used: {reason(error)}") from error
    return task


def _check(task: Task, check: Callable[..., tuple[BiasLayout, int]]) -> None:
    task.model.eval()  # dropout off
    probes = task.probes()
    task.layout, task.canonical_rows = check(
        task.model,
        task.layout,
        lambda chosen: probes.losses(task.model, chosen),
        probes.lengths,
    )
    task.pretrained = read_biases(task.model, task.layout)
