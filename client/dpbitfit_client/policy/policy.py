"""A site's policy: the only authority on what a coordinator may ask of it.

Each part knows the table that it is read from: its fields are the table's keys,
with underscores for dashes. Reading touches no record and no model.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from dpbitfit.errors import BudgetError, InputError, PolicyError
from dpbitfit.ledger.heads import default_folder
from dpbitfit.plan import Plan
from dpbitfit.tasks.models import model_digest, resolve_model
from dpbitfit_client.policy import value_rules
from dpbitfit_client.policy.limits import Limits
from dpbitfit_client.policy.toml_lines import Key
from dpbitfit_client.policy.toml_table import Document, Table, between, dotted

__all__ = [
    "AllowedModel",
    "Dataset",
    "Evaluation",
    "Limits",
    "Policy",
    "SiteRules",
    "model_digest",
]


@dataclass(frozen=True)
class SiteRules:
    """The site itself.

    ``ledger`` is a path or a PostgreSQL URL; ``state_directory`` keeps the copy of its
    heads, by which a lost or restored one is noticed; ``group`` is the only Unix group that
    may connect to ``socket``. A reply leaves at a whole multiple of
    ``reply_slot_seconds`` after its request (0: when it is ready); one request
    may work for at most ``round_seconds``.
    """

    name: str
    ledger: str
    socket: Path
    group: str
    reply_slot_seconds: float
    round_seconds: float
    state_directory: Path

    @classmethod
    def read(cls, table: Table) -> Self:
        ledger = table.text("ledger", value_rules.LEDGER)
        # A PostgreSQL ledger has no folder beside it: there the policy must name one.
        beside = default_folder(ledger)
        site = cls(
            table.text("name", value_rules.NAME),
            ledger,
            Path(table.text("socket", value_rules.SOCKET)),
            table.text("group", value_rules.GROUP),
            table.number("reply-slot-seconds", between(0, 86_400), 0),
            table.number("round-seconds", between(1, 604_800), 3600),
            Path(table.text("state-directory", value_rules.STATE, str(beside) if beside else None)),
        )
        table.done()
        return site


@dataclass(frozen=True)
class AllowedModel:
    """A model that coordinators may ask for by ``name``: a folder, and SHA-256 of its files."""

    name: str
    path: str
    digest: str

    def folder(self) -> Path:
        """Where its files lie; InputError unless they are those of the digest."""
        folder = Path(resolve_model(self.path))
        found = model_digest(folder)
        if found != self.digest:
            raise InputError(f"{folder}: its digest is {found}, and the policy says {self.digest}")
        return folder

    @classmethod
    def read(cls, name: str, table: Table) -> Self:
        digest = table.text("digest", value_rules.HEX).lower()
        model = cls(name, table.text("path", value_rules.FOLDER), digest)
        table.done()
        return model


@dataclass(frozen=True)
class Evaluation:
    """Records that are only ever evaluated on, with a budget of their own.

    ``source`` is as a dataset's; ``epsilon`` is at ``delta``. ``metrics`` gives
    the noise multiplier of each evaluation of a metric: one Gaussian mechanism at
    sampling rate 1.
    """

    source: str
    unit_column: str | None
    declared_size: int
    epsilon: float
    delta: float
    metrics: Mapping[str, float]

    @property
    def unit(self) -> str:
        """Of privacy: ``record``, or the column that names the person."""
        return self.unit_column or "record"

    @classmethod
    def read(cls, table: Table) -> Self:
        metrics = table.tables("metrics", value_rules.one_of(value_rules.METRICS))
        evaluation = cls(
            _source(table),
            table.text("unit-column", value_rules.UNIT, "") or None,
            table.whole("declared-size", 10**9),
            table.number("epsilon", value_rules.EPSILON),
            table.number("delta", value_rules.DELTA),
            {name: _noise_multiplier(one) for name, one in metrics.items()},
        )
        table.done()
        return evaluation


@dataclass(frozen=True)
class Dataset:
    """Records that may be trained on, and by whom.

    ``source`` is a file or ``package.module:function``, ``labels`` the public label
    set as ``read_labels`` takes it. ``declared_size`` is a public constant that
    stands for the number of units. ``epsilon``, at ``delta``, is the budget of
    every coordinator together; ``limits`` is by a coordinator's name. Data sets of one
    ``account`` add up their losses there: a unit may have records in several of them.
    """

    name: str
    source: str
    text_column: str
    label_column: str
    labels: str
    unit_column: str | None
    declared_size: int
    epsilon: float
    delta: float
    limits: Mapping[str, Limits]
    evaluation: Evaluation | None
    account: str

    @property
    def unit(self) -> str:
        """Of privacy: ``record``, or the column that names the person."""
        return self.unit_column or "record"

    @property
    def evaluation_name(self) -> str:
        """What the ledger calls the records for evaluation."""
        return f"{self.account}:evaluation"

    @property
    def parts(self) -> "tuple[Dataset | Evaluation, ...]":
        """The records that train, and those that are only measured on, where there are any."""
        return (self,) if self.evaluation is None else (self, self.evaluation)

    def check(self, plan: Plan) -> None:
        """Raise unless a plan protects what this dataset's budget counts.

        PolicyError for another unit or for insecure noise, BudgetError for
        another delta.
        """
        if plan.unit != self.unit:
            raise PolicyError(f"the policy's unit of privacy is {self.unit!r}")
        if plan.noise != "discrete-gaussian":
            raise PolicyError("the policy allows cryptographic noise only")
        if plan.delta != self.delta:
            raise BudgetError(f"the policy's budget is at delta {self.delta:g}")

    @classmethod
    def read(
        cls, name: str, table: Table, coordinators: Sequence[str], models: Sequence[str]
    ) -> Self:
        epsilon = table.number("epsilon", value_rules.EPSILON)
        allowed = table.tables("coordinators", value_rules.one_of(coordinators), optional=True)
        dataset = cls(
            name,
            _source(table),
            table.text("text-column", value_rules.COLUMN, "text"),
            table.text("label-column", value_rules.COLUMN, "label"),
            table.text("labels", value_rules.LABELS),
            table.text("unit-column", value_rules.UNIT, "") or None,
            table.whole("declared-size", 10**9),
            epsilon,
            table.number("delta", value_rules.DELTA),
            {who: Limits.read(one, epsilon, models) for who, one in allowed.items()},
            Evaluation.read(one) if (one := table.optional("evaluation")) else None,
            table.text("account", value_rules.NAME, name),
        )
        table.done()
        return dataset


@dataclass(frozen=True)
class Policy:
    """Everything that a site allows; ``coordinators`` gives each one's public key by name."""

    site: SiteRules
    coordinators: Mapping[str, str]
    models: Mapping[str, AllowedModel]
    datasets: Mapping[str, Dataset]

    @classmethod
    def read(cls, path: Path) -> Self:
        """The policy in a file.

        Raises InputError with every fault, one a line: file and line, the full
        key, and what to write instead.
        """
        document = Document(path)
        root = document.root
        site = SiteRules.read(root.table("site"))
        keys = root.tables("coordinators", value_rules.NAME)
        models = root.tables("models", value_rules.NAME)
        datasets = root.tables("datasets", value_rules.NAME)
        policy = cls(
            site,
            {name: _public_key(table) for name, table in keys.items()},
            {name: AllowedModel.read(name, table) for name, table in models.items()},
            {
                name: Dataset.read(name, table, list(keys), list(models))
                for name, table in datasets.items()
            },
        )
        root.done()
        policy._refuse_repeats(document)
        policy._refuse_unlike_parts(document)
        document.check()
        return policy

    def coordinator(self, public_key: str) -> str | None:
        """The name of the coordinator with that key; None for a stranger."""
        return next((name for name, key in self.coordinators.items() if key == public_key), None)

    def folder(self, model: str) -> str:
        """Where an allowed model lies; InputError unless its files are those of its digest."""
        return str(self.models[model].folder())

    def limits(self, dataset: str, public_key: str) -> Limits:
        """What the coordinator with that key may do; PolicyError where that is nothing."""
        name = self.coordinator(public_key)
        if name is None or dataset not in self.datasets:
            raise PolicyError("the policy knows no such coordinator or no such dataset")
        limits = self.datasets[dataset].limits.get(name)
        if limits is None:
            raise PolicyError(f"the policy allows {name!r} nothing with {dataset!r:.60}")
        return limits

    def _refuse_repeats(self, document: Document) -> None:
        """Two names for one key, or for records whose losses would then not add up."""
        keys = [
            (("coordinators", name, "public-key"), key) for name, key in self.coordinators.items()
        ]
        for said, values in (("is also that of", keys), ("is also", list(self._sources()))):
            first: dict[str, Key] = {}
            for key, value in values:
                if value and first.setdefault(value, key) != key:
                    document.fault(key, f"{said} {dotted(first[value])}; use one name for both")

    def _refuse_unlike_parts(self, document: Document) -> None:
        """Records that share an account, which has one unit, one budget and one delta."""
        first: dict[str, tuple[Key, Dataset | Evaluation]] = {}
        for name, dataset in self.datasets.items():
            for part in dataset.parts:
                training = part is dataset
                table: Key = ("datasets", name) if training else ("datasets", name, "evaluation")
                account = dataset.account if training else dataset.evaluation_name
                where, other = first.setdefault(account, (table, part))
                for key in ("unit", "epsilon", "delta"):
                    mine, theirs = getattr(part, key), getattr(other, key)
                    if mine < theirs or mine > theirs:  # a number at fault is neither
                        said = f"must be that of {dotted(where)}, {theirs!r}: they share an account"
                        document.fault((*table, "unit-column" if key == "unit" else key), said)
            owner = self.datasets.get(dataset.account, dataset)
            if owner.account != dataset.account:
                said = f"{owner.name} has another account: name that one, or another name"
                document.fault(("datasets", name, "account"), said)

    def _sources(self) -> Iterator[tuple[Key, str]]:
        """Where every record comes from, with the key that says so."""
        for name, dataset in self.datasets.items():
            yield _named(("datasets", name), dataset.source)
            if dataset.evaluation is not None:
                yield _named(("datasets", name, "evaluation"), dataset.evaluation.source)


def _named(table: Key, source: str) -> tuple[Key, str]:
    if os.path.isabs(source):
        return (*table, "path"), os.path.realpath(source)
    return (*table, "loader"), source


def _source(table: Table) -> str:
    """The file or the function, of which a table names exactly one."""
    path, loader = (
        table.text("path", value_rules.FILE, ""),
        table.text("loader", value_rules.LOADER, ""),
    )
    if ("path" in table) == ("loader" in table):
        table.fault("path", "give path or loader, and only one of them")
    return path or loader


def _public_key(table: Table) -> str:
    key = table.text("public-key", value_rules.HEX).lower()
    table.done()
    return key


def _noise_multiplier(table: Table) -> float:
    noise = table.number("noise-multiplier", value_rules.NOISE)
    table.done()
    return noise
