"""A TOML file read with care: every fault with its line, its key and what to write instead."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ConfigDict, ValidationError

from dpbitfit.errors import InputError
from dpbitfit.faults import Key, faults
from dpbitfit.schema import Part
from dpbitfit_client.policy.file_ownership import check_file
from dpbitfit_client.policy.toml_lines import lines_of_keys

MOST_FAULTS = 10
MOST_BYTES = 1 << 20

Model = TypeVar("Model", bound=Part)


class Table(Part):
    """A table of the policy file: its fields are the keys, with underscores for dashes."""

    # TOML has lists for tuples and texts for paths.
    model_config = ConfigDict(strict=False, alias_generator=lambda name: name.replace("_", "-"))


class Document:
    """A TOML file: its ``values``, and on which line each key stands."""

    def __init__(self, path: Path) -> None:
        """Read it; InputError where it cannot be, or where others could change it."""
        self.path = path
        text = _text(path)
        try:
            self.values: dict[str, Any] = tomllib.loads(text)
            self._lines = lines_of_keys(text)
        except (ValueError, RecursionError) as error:
            is_syntax = isinstance(error, tomllib.TOMLDecodeError)
            reason = error if is_syntax else "it is nested too deeply"
            raise InputError(f"{path}: this is not TOML: {reason}") from error

    def names(self, table: str) -> tuple[str, ...]:
        """The keys of a table at the top; none where there is no such table."""
        values = self.values.get(table)
        return tuple(values) if isinstance(values, dict) else ()

    def read(self, model: type[Model], context: Mapping[str, Any]) -> Model:
        """The values as a model; InputError with the first faults, one a line."""
        try:
            return model.model_validate(self.values, context=context)
        except ValidationError as error:
            wrong = [(self._line(fault.key), fault) for fault in faults(error, model)]
        wrong.sort(key=lambda pair: pair[0])
        first = wrong if len(wrong) <= MOST_FAULTS else wrong[: MOST_FAULTS - 1]
        message = [f"{self.path}:{line}: {fault}" for line, fault in first]
        if len(wrong) > len(first):
            message.append(f"{self.path}: and {len(wrong) - len(first)} more faults")
        raise InputError("\n".join(message))

    def _line(self, key: Key) -> int:
        """Where a key stands, or else the table that lacks it."""
        known = (key[:length] for length in range(len(key), 0, -1))
        return next((self._lines[part] for part in known if part in self._lines), 1)


def _text(path: Path) -> str:
    """A file's text; InputError where another user could have written it."""
    try:
        with path.open("rb") as file:
            check_file(path, file.fileno())
            content = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "this is no path"
        raise InputError(f"{path}: cannot be read: {reason}") from error
    if len(content) > MOST_BYTES:
        raise InputError(f"{path}: is larger than {MOST_BYTES:,} bytes")
    try:
        return content.decode().removeprefix("\ufeff")  # the mark of some editors
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}:{line}: this is not UTF-8 text") from error
