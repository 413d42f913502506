"""What a worker of a test loads: a task that cannot draw there, and does what a file says."""

import time
from pathlib import Path
from typing import Any

from dpbitfit.data.tables import Table
from dpbitfit.engine.noise import DiscreteGaussian
from dpbitfit.engine.sampling import PoissonSampler
from dpbitfit.errors import InputError

from .tasks import load_text

LABELS = ("card", "loan")
SECRET = "what a letter says"


def load(model: str, behaviour: Path, device: str) -> Any:
    PoissonSampler.draw = _forbidden  # type: ignore[method-assign]
    DiscreteGaussian.release = _forbidden  # type: ignore[method-assign]
    if behaviour.read_text() == "missing":
        raise InputError("there is no such device")
    task = load_text(model, LABELS, "trained", max_length=16)
    if behaviour.read_text() == "other":
        task.canonical_rows *= 2
    records = task.records

    def watched(table: Table) -> Any:
        if behaviour.read_text() == "cannot read":
            raise KeyError(SECRET)
        made = records(table)
        losses = made.losses

        def behave(*given: Any) -> Any:
            if behaviour.read_text() == "hangs":
                time.sleep(600)
            if behaviour.read_text() == "raises":
                raise KeyError(SECRET)
            return losses(*given)

        made.losses = behave  # type: ignore[method-assign]
        return made

    task.records = watched  # type: ignore[method-assign]
    return task


def _forbidden(*_: Any) -> Any:
    raise AssertionError("a worker draws")
