"""What is public of text classification: settings, columns, metrics. Imports without torch."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from dpbitfit.data.columns import Kind
from dpbitfit.tasks.base import Metric, TaskSettings
from dpbitfit.validate import LogitScale, MaxLength

COLUMNS: Mapping[str, Kind] = {"text": Kind.TEXT, "label": Kind.LABEL}
METRICS: Mapping[str, Metric] = {
    "accuracy": Metric(bound=1.0),
    "loss": Metric(bound=10.0, unit="nats", higher_is_better=False),
}
HEADLINE = "accuracy"

Head = Literal["labels", "trained"]


class TextSettings(TaskSettings):
    """How texts are read and classified."""

    head: Head = Field(
        "labels", description="labels: fixed, the embedded label names; trained: starts there."
    )
    logit_scale: LogitScale = 20.0
    max_length: MaxLength = 128
