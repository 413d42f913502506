"""What a guard keeps warm: one data set with one model, loaded and prepared once.

The model is loaded for any coordinator that the policy allows; records are prepared
in a round that has been charged for them, and not before: a failure on a record is
no free answer.
"""

import gc
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dpbitfit.engine import devices, split
from dpbitfit.engine.training import PrivateRecords
from dpbitfit.errors import PolicyError, ProtocolError
from dpbitfit.plan import Plan
from dpbitfit.protocol.codec import FLOAT32
from dpbitfit.tasks.attach import attach
from dpbitfit.tasks.base import Declaration, Task, TaskSettings
from dpbitfit.tasks.features import FeatureCache, trained_head
from dpbitfit.tasks.private_records import private_records
from dpbitfit.tasks.registry import read_settings, resolve
from dpbitfit_client.guard.records import Records
from dpbitfit_client.guard.workers import Workers
from dpbitfit_client.policy.policy import Dataset, Evaluation

MOST_TASKS = 2  # each holds a model


class Load(Protocol):
    """A way to have a checked task, as ``attach``."""

    def __call__(
        self,
        kind: type[Declaration],
        folder: str,
        settings: TaskSettings,
        labels: tuple[str, ...],
        *,
        needs_gradients: bool,
    ) -> Task:
        """The task; InputError or ModelError where it cannot be loaded or trained."""


class LoadedTask:
    """A task, and what of its data set's records was prepared so far.

    ``workers`` hold the same on the site's further devices.
    """

    def __init__(self, task: Task, site_records: Records, workers: Workers) -> None:
        self.task = task
        self.workers = workers
        self._site_records = site_records
        self._records: dict[str, PrivateRecords] = {}
        self._features: dict[str, FeatureCache] = {}

    def records(self, part: Dataset | Evaluation) -> PrivateRecords:
        """The records that train it, or those that are only evaluated on; raises as
        ``private_records``.
        """
        if part.source not in self._records:
            table = self._site_records.table(part)
            self._records[part.source] = private_records(self.task, table)
        return self._records[part.source]

    def features(self, part: Dataset) -> FeatureCache:
        """The features of the records that train it."""
        if part.source not in self._features:
            self._features[part.source] = FeatureCache(self.task, self.records(part))
        return self._features[part.source]

    def biases(self, packed: bytes, most: float) -> NDArray[np.float32]:
        """The biases [P] that a round starts from.

        Raises ProtocolError as ``Codec.decode``, PolicyError where a bias is further than
        ``most`` from its pretrained value.
        """
        biases = FLOAT32.decode(packed, self.task.layout.size)
        distance = float(np.abs(biases.astype(np.float64) - self.task.pretrained).max())
        if distance > most:
            raise PolicyError(
                f"the policy allows a bias up to {most:g} from its pretrained value, "
                f"not {distance:.3g}"
            )
        return biases

    def check(self, plan: Plan) -> None:
        """ProtocolError unless the plan is for this very model and label set.

        Raises InputError where it trains a linear head alone, and the task has none, ModelError
        where a device of the model's works no more: nothing has been charged yet.
        """
        for device in split.devices_of(self.task.model):
            devices.require_working(device)
        if (plan.model.layout, plan.model.digest) != (self.task.layout.digest, self.task.digest):
            raise ProtocolError("the plan is for another model or label set than this site's")
        if any(phase.trains == "head" for phase in plan.phases):
            trained_head(self.task)


class TaskCache:
    """The tasks that were used last, by data set, model and settings."""

    def __init__(
        self,
        folder: Callable[[str], str],
        records: Records,
        load: Load,
        site_tasks: Mapping[str, str] | None = None,
        further_devices: Sequence[str] = (),
        round_seconds: float = math.inf,
        precision: devices.Precision = "float32",
    ) -> None:
        """``folder`` says where a model of some name lies.

        ``load`` gives a checked task, as ``attach``; ``site_tasks`` is the ``module:Class`` of
        each task that is the site's own. ``further_devices`` have workers, which take part in a
        round for at most ``round_seconds`` and compute in ``precision``.
        """
        self._folder = folder
        self._records = records
        self._site_tasks = site_tasks or {}
        self._load_task = load
        self._further_devices, self._round_seconds = further_devices, round_seconds
        self._precision = precision
        self._loaded: OrderedDict[tuple[str, ...], LoadedTask] = OrderedDict()

    def load(
        self, dataset: Dataset, model: str, settings: TaskSettings, needs_gradients: bool
    ) -> LoadedTask:
        """The task of these settings, on every device.

        Raises InputError or ModelError where it cannot be loaded, and as ``Workers.ready``.
        """
        key = (dataset.name, model, settings.model_dump_json(), str(needs_gradients))
        loaded = self._loaded.pop(key, None)
        while len(self._loaded) >= MOST_TASKS:  # first: a third model may not fit
            self._loaded.popitem(last=False)[1].workers.kill()
            gc.collect()  # layers in bfloat16 hold themselves
        loaded = loaded or self._load(dataset, model, settings, needs_gradients)
        self._loaded[key] = loaded
        return loaded

    def close(self) -> None:
        """End all workers."""
        for loaded in [*self._loaded.values()]:
            loaded.workers.kill()

    def settings(self, dataset: Dataset, plan: Plan) -> TaskSettings:
        """A plan's settings for its task, with the task's defaults; InputError for a fault."""
        return read_settings(resolve(dataset.task, self._site_tasks), plan.task.settings)

    def _load(
        self, dataset: Dataset, model: str, settings: TaskSettings, needs_gradients: bool
    ) -> LoadedTask:
        kind = resolve(dataset.task, self._site_tasks)
        labels = self._records.labels(dataset)
        folder = self._folder(model)
        how: Any = {"needs_gradients": needs_gradients, "precision": self._precision}
        again = partial(attach, kind, folder, settings, labels, **how)
        table = self._records.table(dataset)
        workers = Workers(self._further_devices, again, table, self._round_seconds)
        try:
            workers.start()
            task = self._load_task(kind, folder, settings, labels, needs_gradients=needs_gradients)
            workers.ready(task)
        except BaseException:
            workers.kill()
            raise
        return LoadedTask(task, self._records, workers)
