"""Loading a task, and the check that its model can be trained privately here."""

from collections.abc import Sequence

from dpbitfit.engine.selfcheck import check_gradients
from dpbitfit.tasks.base import Declaration, Task, TaskSettings


def attach(
    kind: type[Declaration], folder: str, settings: TaskSettings, labels: Sequence[str]
) -> Task:
    """Load a task, built-in or a site's own, and check its gradients on its public probes.

    Raises InputError when it cannot be loaded, ModelError when it cannot be trained
    privately on this machine.
    """
    task = kind.load(folder, settings, labels)
    task.model.eval()  # dropout off
    probes = task.probes()
    task.canonical_rows = check_gradients(
        task.model,
        task.layout,
        lambda chosen: probes.losses(task.model, chosen),
        probes.lengths,
    )
    return task
