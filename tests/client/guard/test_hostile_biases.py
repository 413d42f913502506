"""A listed coordinator with chosen biases, against a guard's process: a canary moves no more than
its own clipped row, whatever else is in the batch.

Version 0.1 let it move the sum by 9 to 127 clipping norms; this reads what a guard releases, with
noise, over twenty rounds with the canary and twenty without.
"""

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from dpbitfit.data.labels import read_labels
from dpbitfit.engine.biases import write_biases
from dpbitfit.engine.gradients import PerRecordGradients
from dpbitfit.engine.memory import in_micro_batches
from dpbitfit.tasks.models import model_digest
from dpbitfit.tasks.text_classification.task import TextClassification

from ...support import plans
from ...support.hostile_biases import cancelling, overflowing_at_padding
from ...support.shallow import shallow_minilm
from ...support.sites import Site, served
from ...support.tasks import load_text, text_table

ROUNDS = 20
SIGMA = 1.0
PLAN = plans.plan(
    noise_multiplier=SIGMA,
    sampling_rate=1.0,
    rounds=ROUNDS,
    steps_per_round=1,
    clipping="automatic",
    clipping_norm=1.0,
    optimizer="sgd",
    learning_rate=1.0,
    max_length=64,
)
PHASE = PLAN.phases[0]
DECLARED = 60
LIMITS = ("datasets", "letters", "coordinators", "office")
TEXTS = [
    f"my {word} has been {state}"
    for word in ("card", "loan", "bank", "fee")
    for state in ("lost", "late", "sold", "paid", "sent", "held")
]  # alike in length
CANARY = "hello, my pension is eight days late, so please answer me very soon indeed, many thanks"


@contextmanager
def site(corpus: Path, folder: Path, texts: list[str]) -> Iterator[Site]:
    """A site whose guard holds these records, and lets its coordinator choose any biases."""
    labels = read_labels(str(corpus.with_suffix(".labels.txt")))
    file = folder / f"{len(texts)}.csv"
    with file.open("w", newline="", encoding="utf-8") as records:
        rows = ((text, labels[number % 2]) for number, text in enumerate(texts))
        csv.writer(records).writerows([("text", "label"), *rows])
    folder = shallow_minilm()
    changes = [
        (("models", "minilm", "path"), folder),
        (("models", "minilm", "digest"), model_digest(Path(folder))),
        (("datasets", "letters", "loader"), ...),
        (("datasets", "letters", "path"), str(file)),
        (("datasets", "letters", "epsilon"), 1000.0),
        ((*LIMITS, "epsilon"), 1000.0),
        ((*LIMITS, "max-sampling-rate"), 1.0),
        ((*LIMITS, "max-length"), PLAN.task.settings["max_length"]),
        ((*LIMITS, "max-bias-distance"), 3.5e38),
    ]
    with served(corpus, *changes) as serving:
        yield serving


def mean_gradient(serving: Site, chosen: np.ndarray) -> np.ndarray:
    """The mean [P] of the noised sums that the guard releases at these biases."""
    plan = serving.plan(PLAN)
    sums = []
    for number in range(ROUNDS):
        reply = serving.train(plan, biases=chosen)
        change = np.frombuffer(reply.content, dtype="<f4").astype(np.float64)
        rate = PHASE.optimizer.learning_rate * (1 - number / ROUNDS)
        sums.append(-change / rate * PHASE.sampling_rate * DECLARED)
    return np.mean(sums, axis=0)


def own_rows(task: TextClassification, chosen: np.ndarray) -> np.ndarray:
    """The clipped row of each record, the canary's last."""
    write_biases(task.model, task.layout, chosen)
    records = task.records(text_table([*TEXTS, CANARY], np.arange(len(TEXTS) + 1) % 2))
    rows = np.zeros((len(TEXTS) + 1, task.layout.size))
    everyone = range(len(rows))
    with PerRecordGradients(task.model, task.layout) as recorder:

        def collect(batch: list[int], full: list[int]) -> Tensor:
            rows = recorder.rows(lambda: records.losses(task.model, full), len(full))
            return rows[: len(batch)]

        for batch, result in in_micro_batches(task.model, records, everyone, collect):
            rows[batch] = PHASE.clipping.clip(result).numpy()
    return rows


def test_a_canary_moves_what_a_guard_releases_by_no_more_than_its_own_row(
    corpus: Path, tmp_path: Path
) -> None:
    labels = read_labels(str(corpus.with_suffix(".labels.txt")))
    task = load_text(shallow_minilm(), labels, max_length=PLAN.task.settings["max_length"])
    attacks = {"overflow": overflowing_at_padding(task, TEXTS), "cancelling": cancelling(task, 1e4)}
    with (
        site(corpus, tmp_path, TEXTS) as without,
        site(corpus, tmp_path, [*TEXTS, CANARY]) as whole,
    ):
        for name, chosen in attacks.items():
            without.office.run = whole.office.run = name
            moved = mean_gradient(whole, chosen) - mean_gradient(without, chosen)  # [P]
            rows = own_rows(task, chosen)
            # Where the companions' rows fell away, or all changed, the sum moved along this.
            along = rows[:-1].sum(axis=0)
            along /= max(np.linalg.norm(along), 1e-12)
            deviation = SIGMA * PHASE.clipping.norm * (2 / ROUNDS) ** 0.5
            assert moved @ along == pytest.approx(rows[-1] @ along, abs=5 * deviation)
            # And in all it moved by the canary's row and noise, whose squared norm is known.
            size = task.layout.size
            expected = deviation**2 * size + rows[-1] @ rows[-1]
            spread = deviation**2 * (2 * size) ** 0.5 + 2 * deviation
            assert moved @ moved == pytest.approx(expected, abs=6 * spread)
