"""A site of a simulation: one part of a data set, and a policy that allows what the run asks.

The data is the researcher's own, so whoever coordinates may ask, and with
insecure noise too. The budget is as strict as a real site's.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dpbitfit.data.partition import count_units, hold_out, natural_sites, split
from dpbitfit.data.tables import Examples, read_examples, read_labels
from dpbitfit.errors import InputError
from dpbitfit.ledger import Ledger
from dpbitfit.ledger.begin import site_path
from dpbitfit.ledger.heads import default_folder
from dpbitfit.plan import HEADS, Plan
from dpbitfit_client.guard.guard import Guard
from dpbitfit_client.policy.limits import MOST_STEPS, Limits
from dpbitfit_client.policy.policy import Dataset, Policy, SiteRules

Config = Mapping[str, Any]
_ANYBODY = "anybody"


@dataclass(frozen=True)
class SimulatedDataset(Dataset):
    """A part of the researcher's own data set."""

    def check(self, plan: Plan) -> None:
        """As a real site's, but with any noise."""
        super().check(replace(plan, noise="discrete-gaussian"))


@dataclass(frozen=True)
class SimulatedPolicy(Policy):
    """What a site of a simulation allows: anybody, any plan within its budget, one model."""

    model: str

    def coordinator(self, public_key: str) -> str:
        """Everybody is known."""
        return _ANYBODY

    def folder(self, model: str) -> str:
        """The run's model, whatever a plan calls it."""
        return self.model

    def limits(self, dataset: str, public_key: str) -> Limits:
        """Nothing is outside but the budget; and a plan's model is the run's."""
        return _Open(self.datasets[dataset].epsilon, 0, 1, MOST_STEPS, MOST_STEPS, (), HEADS, 10**6)


class _Open(Limits):
    def check(self, plan: Plan) -> None:
        plan.check()


def simulated_guard(run: Config, node: Config) -> Guard:
    """The guard of the node with configuration ``node`` in the run ``run``."""
    policy, examples = simulated_site(run, node)
    if not run["site-ledgers"]:  # as the coordinator's: only of a run that counts alone
        Ledger(policy.site.ledger, create=True).database.close()
    return Guard(policy, lambda *_: examples)


def simulated_site(run: Config, node: Config) -> tuple[Policy, Examples]:
    """The policy of a node, with one data set, and the records that are its part.

    Raises InputError for data that cannot be used or settings that are missing.
    """
    name, examples, size = _part(run, int(node["partition-id"]))
    name_of_data = str(run["dataset"]) or Path(str(run["data"])).stem
    dataset = SimulatedDataset(
        name=name_of_data,
        source=str(run["data"]),
        text_column=str(run["text-column"]),
        label_column=str(run["label-column"]),
        labels=str(run["labels"]),
        unit_column=str(run["unit-column"]) or None,
        declared_size=int(run["declared-size"]) or size,
        epsilon=float(run["budget"]) or float(run["target-epsilon"]),
        delta=float(run["delta"]),
        limits={},
        evaluation=None,
        account=name_of_data,
    )
    ledger = site_path(_ledgers_of(run), name)
    state = default_folder(str(ledger))
    assert state is not None
    site = SiteRules(name, str(ledger), Path(), "", 0, math.inf, state)
    policy = SimulatedPolicy(site, {}, {}, {dataset.name: dataset}, str(run["model"]))
    return policy, examples


def _part(run: Config, index: int) -> tuple[str, Examples, int]:
    """The name and the records of one of the data set's sites, and a size to declare."""
    labels = read_labels(str(run["labels"]))
    examples = read_examples(
        str(run["data"]),
        str(run["text-column"]),
        str(run["label-column"]),
        labels,
        str(run["unit-column"]) or None,
        str(run["site-column"]) or None,
    )
    if not run["test-data"]:
        examples, _ = hold_out(examples, float(run["test-fraction"]), int(run["seed"]))
    if run["site-column"]:
        sites = natural_sites(examples)
    else:
        parts = split(examples, int(run["sites"]), float(run["skew"]), int(run["seed"]))
        sites = {f"site-{number}": part for number, part in enumerate(parts, start=1)}
    if index >= len(sites):
        raise InputError(f"the data has {len(sites)} sites and the simulation more nodes")
    name = list(sites)[index]
    # A site that the data names has a size of its own; dealt out, all are meant to be alike.
    if run["site-column"]:
        units: float = count_units(sites[name])
    else:
        units = count_units(examples) / len(sites)
    return name, sites[name], _to_one_digit(units)


def _ledgers_of(run: Config) -> Path:
    """Where a simulation keeps its sites' ledgers."""
    return Path(str(run["site-ledgers"]) or Path(str(run["out"])) / "ledger" / "sites")


def _to_one_digit(count: float) -> int:
    """A size that a researcher would declare: the count's first digit, the rest zeros."""
    digit = 10 ** math.floor(math.log10(count))
    return int(round(count / digit) * digit)
