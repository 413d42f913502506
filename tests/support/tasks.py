"""Text classification for tests: a loaded task, and texts as a table."""

from collections.abc import Sequence
from typing import Any

from dpbitfit.data.tables import Table
from dpbitfit.engine.devices import Precision
from dpbitfit.tasks.attach import attach
from dpbitfit.tasks.registry import read_settings
from dpbitfit.tasks.text_classification.task import TextClassification


def load_text(
    model: str,
    labels: Sequence[str],
    head: str = "labels",
    precision: Precision = "float32",
    private: bool = True,
    **settings: Any,
) -> TextClassification:
    """A model that was checked as a guard does, or the coordinator."""
    options = read_settings(TextClassification, {"head": head, **settings})
    task = attach(TextClassification, model, options, labels, precision=precision, private=private)
    assert isinstance(task, TextClassification)
    return task


def text_table(
    texts: Sequence[str],
    labels: Sequence[int],
    units: Sequence[str] | None = None,
    sites: Sequence[str] | None = None,
) -> Table:
    """Texts with the positions of their labels."""
    return Table({"text": texts, "label": [int(label) for label in labels]}, units, sites)
