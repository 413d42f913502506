"""Which code a task's name selects: built-in code, or what the site's own policy maps it to.

*Formal guarantee*: a name that comes over the wire is looked up, never imported.
Imports without torch, and so does the declaration of a built-in task.
"""

import importlib
from collections.abc import Mapping
from typing import Any

from dpbitfit.errors import InputError, PolicyError
from dpbitfit.tasks.base import Declaration, TaskSettings
from dpbitfit.validate import MOST_METRIC

TEXT_CLASSIFICATION = "text-classification"
TASKS: Mapping[str, str] = {
    TEXT_CLASSIFICATION: "dpbitfit.tasks.text_classification.settings:TextTask",
}
_REQUIRED = ("Settings", "columns", "metrics", "headline", "load")


def resolve(name: str, site_tasks: Mapping[str, str]) -> type[Declaration]:
    """The task that a name selects; ``site_tasks`` is the site's own ``module:Class`` by name.

    Raises PolicyError for any other name, and for a class of the site's that cannot be
    loaded or is no task.
    """
    place = {**TASKS, **site_tasks}.get(name)
    if place is None:
        raise PolicyError(f"the policy does not allow the task {name!r:.60}")
    module, _, attribute = place.partition(":")
    try:
        task: type[Declaration] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise PolicyError(f"the task {name!r}: there is no class {place}") from error
    for required in _REQUIRED:
        if not hasattr(task, required):
            raise PolicyError(f"the task {name!r}: {place} has no {required!r}")
    bounds = [metric.bound for metric in task.metrics.values()]
    if task.headline not in task.metrics or not all(0 < bound <= MOST_METRIC for bound in bounds):
        raise PolicyError(
            f"the task {name!r}: its headline is no metric, or a bound is not above 0 and at most "
            f"{MOST_METRIC:g}"
        )
    return task


def read_settings(task: type[Declaration], values: Mapping[str, Any]) -> TaskSettings:
    """A task's settings from a mapping; InputError, naming the setting, for a fault."""
    try:
        return task.Settings.checked(**values)
    except InputError as error:
        raise InputError(f"the task's setting {error}") from error
