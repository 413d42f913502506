"""Whether a model of a policy can be trained here, for each data set that allows it."""

from collections.abc import Iterator

from dpbitfit.data.labels import read_labels
from dpbitfit.errors import InputError
from dpbitfit.tasks.registry import resolve
from dpbitfit_client.policy.policy import Dataset, Policy


def check_training(policy: Policy, name: str) -> str:
    """Load and check a model as a round would; in words, what of it trains and what does not.

    Raises InputError or ModelError, with the cause, where it cannot be trained. A data set
    whose task's settings have no defaults is left out: only a plan has them.
    """
    from dpbitfit.tasks.attach import attach  # torch, which other checks do not need

    folder, lines = policy.folder(name), []
    for dataset in _allowing(policy, name):
        kind = resolve(dataset.task, policy.tasks)
        try:
            settings = kind.Settings.checked()
        except InputError:
            continue
        labels = read_labels(dataset.labels)
        layout = attach(kind, folder, settings, labels, policy.site.device).layout
        words = f"{dataset.name}: {layout.size:,} values train"
        for why, names in layout.left_out_by_reason.items():
            words += f"; not {', '.join(names)}, because {why}"
        lines.append(words)
    return "; ".join(lines) or "not tried: the settings of its tasks have no defaults"


def _allowing(policy: Policy, model: str) -> Iterator[Dataset]:
    """The data sets that allow a model to some coordinator; all where none does."""
    datasets = list(policy.datasets.values())
    allowing = [d for d in datasets if any(model in limits.models for limits in d.limits.values())]
    yield from allowing or datasets
