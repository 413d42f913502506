"""A site's policy: the only authority on what a coordinator may ask of it.

Its models are the tables of the policy file; reading touches no record and no model.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, field_validator

from dpbitfit.engine.devices import Precision
from dpbitfit.errors import InputError, PolicyError
from dpbitfit.ledger.heads import default_folder
from dpbitfit.tasks.models import model_digest, resolve_model
from dpbitfit.tasks.registry import TASKS
from dpbitfit.validate import Digest, PlainName, real
from dpbitfit_client.policy.consistency import (
    foreign_accounts,
    refuse,
    repeats,
    sources,
    unlike_parts,
)
from dpbitfit_client.policy.dataset import Dataset, Evaluation, MetricNoise
from dpbitfit_client.policy.document import Document, Table
from dpbitfit_client.policy.limits import Limits
from dpbitfit_client.policy.value_types import (
    Devices,
    Folder,
    Group,
    LedgerLocation,
    ModelFolder,
    OwnTask,
    Socket,
    TaskClass,
)

__all__ = [
    "AllowedModel",
    "Coordinator",
    "Dataset",
    "Evaluation",
    "Limits",
    "MetricNoise",
    "Policy",
    "SiteRules",
]

_LowerDigest = Annotated[Digest, AfterValidator(str.lower)]
_NotEmpty = Field(min_length=1)


def _beside_the_ledger(site: dict[str, Any]) -> Any:
    return default_folder(site["ledger"])


class SiteRules(Table):
    """The site itself.

    ``ledger`` is a path or a PostgreSQL URL; ``state_directory`` keeps the copy of its
    heads, by which a lost or restored one is noticed; ``group`` is the only Unix group that
    may connect to ``socket``. A reply leaves at a whole multiple of
    ``reply_slot_seconds`` after its request (0: when it is ready); one request
    may work for at most ``round_seconds``. ``devices`` are where models compute,
    together where there are several: with an update none starts to use what the site has not named.
    ``precision`` is that of what their layers multiply.
    """

    name: PlainName
    ledger: LedgerLocation
    socket: Socket
    group: Group
    reply_slot_seconds: Annotated[float, real(0, 86_400, "Replies leave at multiples of this.")] = 0
    round_seconds: Annotated[float, real(1, 604_800, "The longest that a request may work.")] = 3600
    devices: Annotated[Devices, Field(alias="device")] = ("cpu",)
    precision: Annotated[
        Precision, Field(description="In which the layers of models multiply.")
    ] = "float32"
    # A PostgreSQL ledger has no folder beside it: there the policy must name one.
    state_directory: Folder = Field(default_factory=_beside_the_ledger, validate_default=True)


class Coordinator(Table):
    """A party that may ask, known by the public key of its ledger."""

    public_key: _LowerDigest


class AllowedModel(Table):
    """A model that coordinators may ask for: a folder, and SHA-256 of its files."""

    path: ModelFolder
    digest: _LowerDigest

    def folder(self) -> Path:
        """Where its files lie; InputError unless they are those of the digest."""
        folder = Path(resolve_model(self.path))
        digest = model_digest(folder)
        if digest != self.digest:
            raise InputError(f"{folder}: its digest is {digest}, and the policy says {self.digest}")
        return folder


class Policy(Table):
    """Everything that a site allows; ``tasks`` are its own, as ``package.module:Class``."""

    site: SiteRules
    coordinators: Annotated[Mapping[PlainName, Coordinator], _NotEmpty]
    models: Annotated[Mapping[PlainName, AllowedModel], _NotEmpty]
    tasks: Mapping[OwnTask, TaskClass] = {}
    datasets: Annotated[Mapping[PlainName, Dataset], _NotEmpty]

    @classmethod
    def read(cls, path: Path) -> Self:
        """The policy in a file.

        Raises InputError with every fault, one a line: file and line, the full
        key, and what to write instead.
        """
        document = Document(path)
        names = {table: document.names(table) for table in ("coordinators", "models")}
        return document.read(cls, {**names, "tasks": (*TASKS, *document.names("tasks"))})

    def coordinator(self, public_key: str) -> str | None:
        """The name of the coordinator with that key; None for a stranger."""
        names = {known.public_key: name for name, known in self.coordinators.items()}
        return names.get(public_key)

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

    @field_validator("coordinators")
    @classmethod
    def _one_name_a_key(cls, coordinators: Mapping[str, Coordinator]) -> Mapping[str, Coordinator]:
        keys = (((name, "public-key"), known.public_key) for name, known in coordinators.items())
        refuse(repeats("coordinators", keys, "is also that of"))
        return coordinators

    @field_validator("datasets")
    @classmethod
    def _consistent(cls, datasets: Mapping[str, Dataset]) -> Mapping[str, Dataset]:
        datasets = {name: dataset.named(name) for name, dataset in datasets.items()}
        doubles = repeats("datasets", sources(datasets), "is also")
        refuse([*doubles, *unlike_parts(datasets), *foreign_accounts(datasets)])
        return datasets
