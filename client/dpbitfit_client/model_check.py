"""Whether a model of a policy can be trained here, for each data set that allows it."""

from collections.abc import Callable, Iterator

from dpbitfit.data.labels import read_labels
from dpbitfit.errors import InputError
from dpbitfit.tasks.base import Declaration, Task, TaskSettings
from dpbitfit.tasks.models import resolve_model
from dpbitfit.tasks.registry import resolve
from dpbitfit_client.policy.policy import Dataset, Policy

# With a model's name in the policy, and whether gradients of single records are needed.
LoadFor = Callable[[Dataset, str, TaskSettings, bool], Task]


def check_training(policy: Policy, name: str, load: LoadFor | None = None) -> str:
    """Load and check a model as a round would; in words, what of it trains and what does not.

    ``load`` is a guard's way to have the checked task of a data set; without it the task is
    loaded anew, and a step timed. Raises InputError or ModelError, with the cause, where it
    cannot be trained. A data set whose task's settings have no defaults is left out: only a
    plan has them.
    """
    lines = []
    for dataset in _allowing(policy, name):
        settings = _settings(policy, dataset, name)
        if settings is None:
            continue
        for needs_gradients in _ways(dataset, name):
            wanted = (dataset, name, settings, needs_gradients)
            task = load(*wanted) if load else _load(policy, *wanted)
            by = "" if needs_gradients else " by dp-zero"
            words = f"{dataset.name}: {task.layout.size:,} values train{by}"
            for why, names in task.layout.left_out_by_reason.items():
                words += f"; not {', '.join(names)}, because {why}"
            if load is None and needs_gradients:
                seconds = _seconds_per_record(task)
                words += f"; each sampled record takes about {seconds:.2g} s of a step"
            lines.append(words)
    return "; ".join(lines) or "not tried: the settings of its tasks have no defaults"


def _ways(dataset: Dataset, model: str) -> list[bool]:
    """Whether gradients of single records are needed, in each way that plans may train a model."""
    phases = [set(limits.phases) for limits in dataset.limits.values() if model in limits.models]
    by_gradients = any("biases" in kinds or "dp-zero" not in kinds for kinds in phases)
    ways = [True] if by_gradients or not phases else []
    return [*ways, *([False] if any("dp-zero" in kinds for kinds in phases) else [])]


def _load(
    policy: Policy, dataset: Dataset, model: str, settings: TaskSettings, needs_gradients: bool
) -> Task:
    from dpbitfit.tasks.attach import attach  # torch, which other checks do not need

    kind, labels = resolve(dataset.task, policy.tasks), read_labels(dataset.labels)
    folder = policy.folder(model)
    tasks = [
        attach(kind, folder, settings, labels, device, needs_gradients, policy.site.precision)
        for device in dict.fromkeys(policy.site.devices)
    ]
    return tasks[0]


def _seconds_per_record(task: Task) -> float:
    from dpbitfit.tasks.timing import seconds_per_record  # torch

    return seconds_per_record(task)


def _settings(policy: Policy, dataset: Dataset, model: str) -> TaskSettings | None:
    """What a plan that says nothing else would have, within the limits; None without defaults.

    A model that is itself a result has the settings with which it goes on.
    """
    kind: type[Declaration] = resolve(dataset.task, policy.tasks)
    stored = getattr(kind, "stored_settings", None)  # which a site's own task need not have
    settings = stored(resolve_model(policy.models[model].path)) if stored else None
    if settings is None:
        try:
            settings = kind.Settings.checked()
        except InputError:
            return None
    for limits in dataset.limits.values():
        if model in limits.models:
            return limits.nearest(settings)
    return settings


def _allowing(policy: Policy, model: str) -> Iterator[Dataset]:
    """The data sets that allow a model to some coordinator; all where none does."""
    datasets = list(policy.datasets.values())
    allowing = [d for d in datasets if any(model in limits.models for limits in d.limits.values())]
    yield from allowing or datasets
