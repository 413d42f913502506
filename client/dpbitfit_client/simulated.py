"""A site of a simulation: one part of a data set, and a policy that allows any plan.

The data is the researcher's own, so any coordinator may train on it, and with
insecure noise too. The budget is as strict as a real site's.
"""

import math
from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, ClassVar

from dpbitfit.data.run_data import RunData
from dpbitfit.data.tables import Table
from dpbitfit.engine.devices import Precision
from dpbitfit.errors import InputError
from dpbitfit.ledger import AccountName, Ledger
from dpbitfit.ledger.begin import site_path
from dpbitfit.ledger.heads import default_folder
from dpbitfit.plan import Plan
from dpbitfit.tasks.attach import attach
from dpbitfit.tasks.base import Declaration, Task, TaskSettings
from dpbitfit.tasks.registry import resolve
from dpbitfit_client.guard.guard import Guard
from dpbitfit_client.policy.limits import Limits
from dpbitfit_client.policy.policy import Dataset, Policy, SiteRules

Config = Mapping[str, Any]
_ANY = "any coordinator"


class SimulatedDataset(Dataset):
    """A part of the researcher's own data set, on which any noise will do."""

    _noises: ClassVar[tuple[str, ...]] = ("discrete-gaussian", "fast-insecure")


class SimulatedPolicy(Policy):
    """What a simulated site allows: any coordinator, any plan within its budget, one model."""

    model: str

    def coordinator(self, public_key: str) -> str:
        """Every coordinator is listed."""
        return _ANY

    def folder(self, model: str) -> str:
        """The run's model, whatever a plan calls it."""
        return self.model

    def limits(self, dataset: str, public_key: str) -> Limits:
        """Nothing is outside but the budget; and a plan's model is the run's."""
        return _Open.model_construct(epsilon=self.datasets[dataset].epsilon)


class _Open(Limits):
    def check(self, plan: Plan, settings: TaskSettings) -> None:
        """Any plan will do."""


def simulated_guard(run: Config, node: Config) -> Guard:
    """The guard of the node with configuration ``node`` in the run ``run``."""
    policy, table = simulated_site(run, node)
    if not run["site-ledgers"]:  # as the coordinator's: only of a run that counts alone
        Ledger(policy.site.ledger, create=True).database.close()
    load = partial(_shared_task, device=str(run["device"]), precision=run["precision"])
    return Guard(policy, lambda *_: table, load)


@lru_cache(maxsize=1)
def _shared_task(
    kind: type[Declaration],
    folder: str,
    settings: TaskSettings,
    labels: tuple[str, ...],
    device: str,
    needs_gradients: bool,
    precision: Precision,
) -> Task:
    """One model for all sites of a process: they take turns, and each round writes its biases."""
    return attach(kind, folder, settings, labels, device, needs_gradients, precision)


def simulated_site(run: Config, node: Config) -> tuple[Policy, Table]:
    """The policy of a node, with one data set, and the records that are its part.

    Raises InputError for data that cannot be used or settings that are missing.
    """
    name, table, size = _part(run, int(node["partition-id"]))
    name_of_data = str(run["dataset"]) or Path(str(run["data"])).stem
    ledger = site_path(_ledgers_of(run), name)
    account = AccountName(name, name_of_data, str(run["unit-column"]) or "record")
    budget = float(run["budget"]) or float(run["target-epsilon"])
    dataset = SimulatedDataset.model_construct(
        task=str(run["task"]),
        path=str(run["data"]),
        text_column=str(run["text-column"]),
        label_column=str(run["label-column"]),
        labels=str(run["labels"]),
        unit_column=str(run["unit-column"]) or None,
        declared_size=int(run["declared-size"]) or size,
        epsilon=_kept_budget(ledger, account) or budget,
        delta=float(run["delta"]),
    ).named(name_of_data)
    state = default_folder(str(ledger))
    assert state is not None
    site = SiteRules.model_construct(
        name=name, ledger=str(ledger), state_directory=state, round_seconds=math.inf
    )
    policy = SimulatedPolicy.model_construct(
        site=site, coordinators={}, datasets={dataset.name: dataset}, model=str(run["model"])
    )
    return policy, table


def _kept_budget(ledger: Path, name: AccountName) -> float | None:
    """The budget of an account that an earlier run opened; it keeps that, as the coordinator's."""
    if not ledger.exists():
        return None
    with Ledger(str(ledger), readonly=True) as earlier:
        return next((known.budget for known in earlier.accounts() if known.name == name), None)


def _part(run: Config, index: int) -> tuple[str, Table, int]:
    """The name and the records of one of the data set's sites, and a size to declare."""
    data = RunData.read(run)
    columns = resolve(str(run["task"]), {}).columns
    sites = data.sites(columns, int(run["sites"]), float(run["skew"]))
    if index >= len(sites):
        raise InputError(f"the data has {len(sites)} sites and the simulation more nodes")
    name = list(sites)[index]
    return name, sites[name], data.declared_sizes(sites)[name]


def _ledgers_of(run: Config) -> Path:
    """Where a simulation keeps its sites' ledgers."""
    return Path(str(run["site-ledgers"]) or Path(str(run["out"])) / "ledger" / "sites")
