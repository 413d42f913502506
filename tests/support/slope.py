"""A small task as a developer would add one: this file, and a line of ``registry.TASKS``.

A network learns a number from another one. There is no text and no label, and the module
imports without torch.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import Field

from dpbitfit.data.columns import Kind
from dpbitfit.data.tables import Table
from dpbitfit.tasks.base import Metric, TaskSettings

NAME, PLACE = "slope", f"{__name__}:Slope"
LINE = f"from dpbitfit.tasks import registry; registry.TASKS[{NAME!r}] = {PLACE!r}"


class SlopeSettings(TaskSettings):
    """Public settings of the task."""

    units: int = Field(8, ge=1, le=64, description="Width of the hidden layer.")


class Records:
    """The records as the training loop sees them."""

    def __init__(self, task: "Slope", table: Table) -> None:
        import torch

        self._task = task
        self.x = torch.tensor(table.columns["x"]).float().unsqueeze(1)
        self.y = torch.tensor(table.columns["y"]).float()
        self.lengths = np.ones(len(table), dtype=np.int64)
        self.units = table.unit_records()

    @property
    def canonical_rows(self) -> int:
        return self._task.canonical_rows

    def losses(self, model: Any, records: Sequence[int]) -> Any:
        chosen = list(records)
        return (model(self.x[chosen])[:, 0] - self.y[chosen]) ** 2


class Slope:
    """A network of one hidden layer; its biases train."""

    Settings: ClassVar[type[TaskSettings]] = SlopeSettings
    columns: ClassVar[Mapping[str, Kind]] = {"x": Kind.NUMBER, "y": Kind.NUMBER}
    metrics: ClassVar[Mapping[str, Metric]] = {"error": Metric(4.0, higher_is_better=False)}
    headline: ClassVar[str] = "error"
    labels: tuple[str, ...] = ()

    def __init__(self, model: Any, width: int) -> None:
        from dpbitfit.engine.biases import freeze, read_biases, select_biases

        self.model, self.canonical_rows = model, 1
        self.layout = select_biases(model)
        freeze(model)
        self.pretrained = read_biases(model, self.layout)
        self.digest = f"{width:064x}"

    @classmethod
    def load(cls, folder: str, settings: SlopeSettings, labels: Sequence[str]) -> Self:
        import torch
        from torch import nn

        width = settings.units
        model = nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, 1))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view(parameter.shape))
        return cls(model, width)

    def probes(self) -> Records:
        values = [number / 4 for number in range(6)]
        return Records(self, Table({"x": values, "y": values[::-1]}))

    def records(self, table: Table) -> Records:
        return Records(self, table)

    def evaluate(self, records: Records, progress: Any = None) -> dict[str, Any]:
        from dpbitfit.tasks.evaluation import outputs

        errors = np.empty(len(records.lengths))
        for batch, values in outputs(
            self.model, records, lambda rows: self.model(records.x[rows]), progress
        ):
            errors[batch] = (values[:, 0] - records.y[batch]) ** 2
        return {"error": errors}

    def save(self, folder: Path) -> None:
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.model.state_dict(), folder / "model.safetensors")

    def save_adapter(self, folder: Path) -> None:
        self.save(folder)  # hardly anything of it does not train
