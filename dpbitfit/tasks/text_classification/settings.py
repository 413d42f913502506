"""What is public of text classification: settings, columns, metrics. Imports without torch."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from dpbitfit.data.columns import Kind
from dpbitfit.tasks.base import Metric, TaskSettings
from dpbitfit.validate import Layers, LogitScale, MaxLength

if TYPE_CHECKING:
    from dpbitfit.tasks.text_classification.task import TextClassification

COLUMNS: Mapping[str, Kind] = {"text": Kind.TEXT, "label": Kind.LABEL}
METRICS: Mapping[str, Metric] = {
    "accuracy": Metric(bound=1.0),
    "loss": Metric(bound=10.0, unit="nats", higher_is_better=False),
}

Head = Literal["labels", "trained"]


class TextSettings(TaskSettings):
    """How texts are read and classified."""

    head: Head = Field(
        "trained", description="labels: fixed, the embedded label names; trained: starts there."
    )
    logit_scale: LogitScale = 20.0
    max_length: MaxLength = 128
    layers: Layers = 0

    @property
    def trains_head(self) -> bool:
        """Whether the head's weight is among what trains."""
        return self.head == "trained"


class TextTask:
    """The declaration of text classification."""

    Settings: ClassVar[type[TaskSettings]] = TextSettings
    columns: ClassVar[Mapping[str, Kind]] = COLUMNS
    metrics: ClassVar[Mapping[str, Metric]] = METRICS
    headline: ClassVar[str] = "accuracy"

    @classmethod
    def stored_settings(cls, folder: str) -> TextSettings | None:
        """Those with which a stored result goes on; None for a model that is none.

        Raises InputError where a part of it is missing or was changed.
        """
        from dpbitfit.tasks.text_classification.saved import read_saved  # with torch

        saved = read_saved(folder)
        return None if saved is None else saved.settings

    @classmethod
    def load(
        cls, folder: str, settings: TextSettings, labels: Sequence[str]
    ) -> "TextClassification":
        """Load a model by folder, hub id or ``minilm``.

        Only safetensors, never code from a hub. Raises InputError when it cannot
        be loaded, ModelError when it cannot be trained privately.
        """
        from dpbitfit.tasks.text_classification.task import TextClassification  # with torch

        return TextClassification.load(folder, settings, labels)
