"""Data sets of a folder: public labels, training and test records.

A name may end in a number of records (``banking77:200``): that many of each, for a trial.
"""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dpbitfit.data.tables import Table


@dataclass(frozen=True)
class Data:
    """A data set: its public labels, training and test records."""

    labels: tuple[str, ...]
    training: Table
    test: Table


def read(name: str, folder: Path) -> Data:
    name, _, most = name.partition(":")
    data = SETS[name](folder)
    if not most:
        return data
    return Data(data.labels, _some(data.training, int(most)), _some(data.test, int(most)))


def _some(table: Table, most: int) -> Table:
    chosen = np.random.default_rng(0).permutation(len(table))[:most]
    return table.take(np.sort(chosen))


def banking77(folder: Path) -> Data:
    labels = tuple(json.loads((folder / "banking77" / "categories.json").read_text()))

    def read(name: str) -> Table:
        with (folder / "banking77" / name).open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        texts, names = [row["text"] for row in rows], [row["category"] for row in rows]
        return Table({"text": texts, "label": [labels.index(name) for name in names]})

    return Data(labels, read("train.csv"), read("test.csv"))


def sst2(folder: Path) -> Data:
    def read(name: str) -> Table:
        lines = (folder / "sst2" / f"stsa.binary.{name}").read_text(encoding="utf-8").splitlines()
        pairs = [line.split(" ", 1) for line in lines]
        texts, labels = [text for _, text in pairs], [int(label) for label, _ in pairs]
        return Table({"text": texts, "label": labels})

    return Data(("negative", "positive"), read("train"), read("test"))


def medquad(folder: Path) -> Data:
    """Questions by type; the sites are the web sites that they come from; a fifth is the test."""
    with (folder / "medquad" / "medquad.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    labels = tuple(sorted({row["qtype"] for row in rows}))
    whole = Table(
        {
            "text": [row["question"] for row in rows],
            "label": [labels.index(row["qtype"]) for row in rows],
        },
        sites=[row["site"] for row in rows],
    )
    tested = np.random.default_rng(0).random(len(rows)) < 0.2
    training, test = np.flatnonzero(~tested), np.flatnonzero(tested)
    return Data(labels, whole.take(training), whole.take(test))


SETS = {"banking77": banking77, "sst2": sst2, "medquad": medquad}
