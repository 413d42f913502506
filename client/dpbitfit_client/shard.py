"""What a site holds: its records, its name, its public declared size, its budget.

On a node of a real federation all of that comes from the node's own
configuration. In a simulation the node holds a part of one data set, which the
run configuration describes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dpbitfit.errors import InputError
from dpbitfit.partition import hold_out, natural_sites, split
from dpbitfit.tables import Examples, read_examples, read_labels

Config = Mapping[str, Any]

DELTA = 1e-5  # of a node that names none


@dataclass(frozen=True)
class Shard:
    """One site's records, and the limits that the site itself sets.

    ``dataset`` names the records for the ledger: what is trained on them adds up
    under that name. ``declared_size`` is a public constant that stands for the
    number of units; ``budget`` is the largest epsilon, at ``delta``, that the
    site allows; ``ledger`` is where the site keeps count of it.
    """

    name: str
    dataset: str
    examples: Examples
    labels: tuple[str, ...]
    declared_size: int
    budget: float
    delta: float
    ledger: str
    unit: str
    allows_fast_noise: bool


def is_simulated(node: Config) -> bool:
    """Whether the node is one part of a simulation's data set."""
    return "data-path" not in node


def load_shard(run: Config, node: Config) -> Shard:
    """The shard of the node with configuration ``node`` in the run ``run``.

    Raises InputError for data that cannot be used or settings that are missing.
    """
    return _part_of_data_set(run, node) if is_simulated(node) else _own_data(run, node)


def _own_data(run: Config, node: Config) -> Shard:
    """A real site: the node's configuration alone says what may be touched, and how far."""
    for key in ("name", "declared-size", "target-epsilon", "ledger"):
        if key not in node:
            raise InputError(f"the node's configuration lacks {key!r}")
    labels = read_labels(str(node.get("labels", run["labels"])))
    unit = str(node.get("unit-column", ""))
    text_column, label_column = (
        str(node.get(key, run[key])) for key in ("text-column", "label-column")
    )
    return Shard(
        name=str(node["name"]),
        dataset=str(node.get("dataset", Path(str(node["data-path"])).stem)),
        examples=read_examples(
            str(node["data-path"]), text_column, label_column, labels, unit or None
        ),
        labels=labels,
        declared_size=int(node["declared-size"]),
        budget=float(node["target-epsilon"]),
        delta=float(node.get("delta", DELTA)),
        ledger=str(node["ledger"]),
        unit=unit or "record",
        allows_fast_noise=False,
    )


def _part_of_data_set(run: Config, node: Config) -> Shard:
    labels = read_labels(str(run["labels"]))
    unit = str(run["unit-column"])
    examples = read_examples(
        str(run["data"]),
        str(run["text-column"]),
        str(run["label-column"]),
        labels,
        unit or None,
        str(run["site-column"]) or None,
    )
    if not run["test-data"]:
        examples, _ = hold_out(examples, float(run["test-fraction"]), int(run["seed"]))
    if run["site-column"]:
        sites = natural_sites(examples)
    else:
        parts = split(examples, int(run["sites"]), float(run["skew"]), int(run["seed"]))
        sites = {f"site-{number}": part for number, part in enumerate(parts, start=1)}
    index = int(node["partition-id"])
    if index >= len(sites):
        raise InputError(f"the data has {len(sites)} sites and the simulation more nodes")
    name = list(sites)[index]
    mine = sites[name]
    units = len(set(mine.units)) if mine.units else len(mine)
    return Shard(
        name=name,
        dataset=str(run["dataset"]) or Path(str(run["data"])).stem,
        examples=mine,
        labels=labels,
        declared_size=int(run["declared-size"]) or _to_one_digit(units),
        budget=float(run["budget"]) or float(run["target-epsilon"]),
        delta=float(run["delta"]),
        ledger=str(_ledgers_of(run) / f"{quote(name, safe='')}.sqlite"),
        unit=unit or "record",
        allows_fast_noise=True,
    )


def _ledgers_of(run: Config) -> Path:
    """Where a simulation keeps its sites' ledgers."""
    return Path(str(run["site-ledgers"]) or Path(str(run["out"])) / "ledger" / "sites")


def _to_one_digit(count: int) -> int:
    """A size that a researcher would declare: the count's first digit, the rest zeros."""
    digit = 10 ** math.floor(math.log10(count))
    return int(round(count / digit) * digit)
