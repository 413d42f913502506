"""What each kind of value in a site's policy may be, beside what every setting shares."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import sqlalchemy as sa
from pydantic import BeforeValidator, Field, GetCoreSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from dpbitfit.data.labels import is_label_file
from dpbitfit.data.sources.formats import READERS, is_file
from dpbitfit.tasks.models import PACKAGED
from dpbitfit.tasks.registry import TASKS
from dpbitfit.validate import Form, Import, PlainName, is_name, is_path, one_of, real, text

_LONGEST_SOCKET = 107  # bytes of a Unix socket's path


@dataclass(frozen=True)
class NameIn:
    """A name that one of the policy's tables has.

    The validation's context gives each table's names.
    """

    table: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.with_info_after_validator_function(self._check, handler(source))

    def _check(self, value: str, info: ValidationInfo) -> str:
        names = (info.context or {}).get(self.table, ())
        if value not in names:
            raise PydanticCustomError("form", "{words}", {"words": one_of(names).words})
        return value


def _is_ledger(value: str) -> bool:
    if "://" not in value:
        return is_path(value)
    try:
        return sa.make_url(value).get_backend_name() == "postgresql"
    except (sa.exc.ArgumentError, ValueError):
        return False


def _is_labels(value: str) -> bool:
    if is_label_file(value):
        return is_path(value)
    return value.isprintable() and len({name.strip() for name in value.split(",")} - {""}) > 1


def _is_socket(value: Path) -> bool:
    return is_path(str(value)) and len(os.fsencode(value)) <= _LONGEST_SOCKET


def _is_group(value: str) -> bool:
    return re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}", value) is not None


def _are_devices(names: tuple[str, ...]) -> bool:
    if len(names) == 1 and names[0] in ("auto", "cuda"):
        return True
    gpus = [gpu for name in names for gpu in name.split("+")]
    differ = len(set(gpus)) == len(gpus)
    all_gpus = all(re.fullmatch(r"cuda:(0|[1-9][0-9]?)", gpu) for gpu in gpus)
    return bool(names) and (set(names) == {"cpu"} or (differ and all_gpus))


Column = Annotated[
    str,
    text("A column of the records."),
    Form(
        "a column's name, of at most 200 characters",
        lambda value: value.isprintable() and 0 < len(value) <= 200,
    ),
]
UnitColumn = Annotated[
    str,
    text("The column that names the person: the unit of privacy."),
    Form(
        "a column's name without '/'; 'record' is the unit where no column is given",
        lambda value: is_name(value) and value != "record",
    ),
]
Devices = Annotated[
    tuple[str, ...],
    Field(description="Where models compute: on one device, or on several together."),
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
    Form(
        "'cpu', 'auto', 'cuda' or 'cuda:N', or a list: 'cpu' once for each core, or GPUs that "
        "differ, each 'cuda:N'; a model is split over 'cuda:N+cuda:M'",
        _are_devices,
    ),
]
LedgerLocation = Annotated[
    str,
    text("Where the ledger is kept."),
    Form("an absolute path or a postgresql:// URL", _is_ledger),
]
Socket = Annotated[
    Path,
    Field(description="Where the guard answers."),
    Form(f"an absolute path of at most {_LONGEST_SOCKET} bytes", _is_socket),
]
Group = Annotated[
    str,
    text("The only Unix group that may connect to the socket."),
    Form("the name of a Unix group", _is_group),
]
RecordsFile = Annotated[
    str,
    text("The file with the records."),
    Form(
        f"an absolute path that ends in {', '.join(READERS)}",
        lambda value: is_path(value) and is_file(value),
    ),
]
Labels = Annotated[
    str,
    text("The public label set: a file, or the names themselves."),
    Form(
        "an absolute path that ends in .txt or .json, or at least two names as in 'a,b'",
        _is_labels,
    ),
]
ModelFolder = Annotated[
    str,
    text("The folder of a model, or the name of one that a package carries."),
    Form(
        f"an absolute path of a folder, or one of {', '.join(PACKAGED)}",
        lambda value: is_path(value) or value in PACKAGED,
    ),
]
Folder = Annotated[
    Path,
    Field(description="A folder."),
    Form("an absolute path of a folder", lambda value: is_path(str(value))),
]
BiasDistance = Annotated[
    float, real(1e-3, 1e39, "How far any bias may be from its pretrained value.")
]
# A site's own name may not stand for another task than plans mean by it.
OwnTask = Annotated[
    PlainName, Form("a name that no built-in task has", lambda name: name not in TASKS)
]
TaskClass = Annotated[Import, Field(description="A task of the site's own: package.module:Class.")]
