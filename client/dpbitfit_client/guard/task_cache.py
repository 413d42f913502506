"""What a guard keeps warm: one data set with one model, loaded and tokenised once.

The model is loaded for whoever may ask; records are tokenised in a round that has
been charged for them, and not before: what goes wrong with one is no free answer.
"""

from collections import OrderedDict
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dpbitfit.errors import PolicyError, ProtocolError
from dpbitfit.plan import Plan
from dpbitfit.protocol import codec
from dpbitfit.tasks.text_classification import TextRecords, TextTask
from dpbitfit_client.guard.records import Records
from dpbitfit_client.policy.policy import Dataset, Evaluation

MOST_ROOMS = 2  # each holds a model


class LoadedTask:
    """A task, and what of its data set's records was tokenised so far."""

    def __init__(self, task: TextTask, records: Records) -> None:
        self.task = task
        self._kept = records
        self._records: dict[str, TextRecords] = {}

    def records(self, part: Dataset | Evaluation) -> TextRecords:
        """The records that train it, or those that are only measured on."""
        if part.source not in self._records:
            self._records[part.source] = self.task.records(self._kept.examples(part))
        return self._records[part.source]

    def biases(self, packed: bytes, most: float) -> NDArray[np.float32]:
        """The biases [P] that a round starts from.

        Raises ProtocolError as ``codec.vector``, PolicyError where one is further than
        ``most`` from its pretrained value.
        """
        found = codec.vector(packed, self.task.layout.size)
        distance = float(np.abs(found.astype(np.float64) - self.task.pretrained).max())
        if distance > most:
            raise PolicyError(
                f"the policy allows a bias up to {most:g} from its pretrained value, "
                f"not {distance:.3g}"
            )
        return found

    def agree(self, plan: Plan) -> None:
        """ProtocolError unless the plan is for this very model and label set."""
        if (plan.layout_digest, plan.model_digest) != (self.task.layout.digest, self.task.digest):
            raise ProtocolError("the plan is for another model or label set than this site's")


class TaskCache:
    """The rooms that were used last, by data set and by what a plan asks of the model."""

    def __init__(self, folder: Callable[[str], str], records: Records) -> None:
        """``folder`` says where a model of some name lies."""
        self._folder = folder
        self._records = records
        self._rooms: OrderedDict[tuple[str | float, ...], LoadedTask] = OrderedDict()

    def enter(self, dataset: Dataset, plan: Plan) -> LoadedTask:
        """The room for a plan; InputError or ModelError where it cannot be loaded."""
        key = (dataset.name, plan.model, plan.head, plan.logit_scale, plan.max_length)
        room = self._rooms.pop(key, None)
        while len(self._rooms) >= MOST_ROOMS:  # first: a third model may not fit
            self._rooms.popitem(last=False)
        room = room or self._load(dataset, plan)
        self._rooms[key] = room
        return room

    def _load(self, dataset: Dataset, plan: Plan) -> LoadedTask:
        labels = self._records.labels(dataset)
        where = self._folder(plan.model)
        task = TextTask.load(where, labels, plan.head, plan.logit_scale, plan.max_length)
        return LoadedTask(task, self._records)
