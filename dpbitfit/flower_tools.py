"""Flower's command-line tools of this environment, and the app bundle that they are given.

The bundle holds configuration and licence only, so that what runs is the installed packages.
"""

import json
import os
import shutil
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

from dpbitfit.errors import InputError
from dpbitfit.schema import Scalar

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_NO_PROXY = ("NO_PROXY", "no_proxy")  # programs differ in which they read

_PROJECT = """\
[project]
name = "dpbitfit-app"
version = "0.1.0"
license = {{ file = "LICENSE" }}
dependencies = ["flwr>=1.41"]

[tool.flwr.app]
publisher = "dpbitfit"
fab-format-version = 1
flwr-version-target = "1.41.0"

[tool.flwr.app.components]
serverapp = "dpbitfit_server.app:app"
clientapp = "dpbitfit_client.app:app"

[tool.flwr.app.config]
{config}
"""


def tool(name: str) -> list[str]:
    """The start of a command, whether or not the tool is on the PATH.

    Raises InputError where it is not installed.
    """
    beside = Path(sys.executable).parent / name
    path = str(beside) if beside.exists() else shutil.which(name)
    if path is None:
        raise InputError(f"{name} is not installed: pip install 'dpbitfit[simulation]'")
    return [path]


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """These environment variables, as Flower's tools need them.

    The tools report no use, install nothing, find one another by name, and reach this
    machine itself without the proxy that may be set.
    """
    given = [variables.get(name, "") for name in _NO_PROXY]
    direct = ",".join(dict.fromkeys(filter(None, (*given, *LOOPBACK))))
    return {
        **variables,
        **dict.fromkeys(_NO_PROXY, direct),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), variables.get("PATH", "")]),
    }


def write_app(directory: Path, config: Mapping[str, Scalar]) -> None:
    """Write the bundle, with every key of the configuration, to a new folder."""
    directory.mkdir()
    lines = "\n".join(
        f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in config.items()
    )
    text = _PROJECT.format(config=lines)
    tomllib.loads(text)
    (directory / "pyproject.toml").write_text(text, encoding="utf-8")
    (directory / "LICENSE").write_text("Apache-2.0\n")
