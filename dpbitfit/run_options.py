"""The run configuration as options of a command."""

from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from dpbitfit.schema import Option, Scalar
from dpbitfit.settings import OPTIONS


def parameters(
    without: Container[str],
    required: Container[str],
    instead: Mapping[str, tuple[Scalar, str]],
) -> Iterator[click.Option]:
    """An option for each key of the configuration but ``without``.

    ``instead`` holds defaults and help that differ from the configuration's.
    """
    for option in OPTIONS:
        if option.key not in without:
            default, text = instead.get(option.key, (option.default, option.help))
            yield _parameter(option, default, text, option.key in required)


def config(values: Mapping[str, Any]) -> dict[str, Any]:
    """What such options were given, as a configuration."""
    return {name.replace("_", "-"): value for name, value in values.items()}


def absolute(value: str) -> str:
    """A path of the caller's, made good for processes that start elsewhere."""
    return str(Path(value).resolve()) if value and Path(value).exists() else value


def _parameter(option: Option, default: Scalar, text: str, required: bool) -> click.Option:
    kind = click.Choice(option.choices) if option.choices else option.kind
    name = [f"--{option.key}"]
    if required:
        return click.Option(name, required=True, type=str, help=text)
    if option.kind is bool:
        return click.Option(name, is_flag=True, default=default, help=text)
    shown: dict[str, Any] = {"help": text, "show_default": default != ""}
    return click.Option(name, type=kind, default=default, **shown)
