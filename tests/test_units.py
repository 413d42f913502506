"""The systemd units: what they run exists and knows its options, and each is shut in."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer

from dpbitfit.cli import app
from tests.conftest import ROOT

UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))
SHUT_IN = {
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "ProtectProc": "invisible",
    "NoNewPrivileges": "yes",
    "CapabilityBoundingSet": "",
    "UMask": "0077",
}


def settings(unit: Path) -> dict[str, str]:
    """The last value of each setting."""
    text = re.sub(r"\\\n\s*", "", unit.read_text())
    return dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))


def known_options(words: list[str]) -> set[str]:
    """What the program says that it takes."""
    program = Path(words[0]).name
    if program != "dpbitfit":
        told = subprocess.run(
            [Path(sys.executable).with_name(program), "--help"], capture_output=True, text=True
        )
        return set(re.findall(r"--[\w-]+", told.stdout))
    command: click.Command = typer.main.get_command(app)
    context = click.Context(command)
    for word in words[1:]:
        if not isinstance(command, click.Group):
            break
        found = command.get_command(context, word)
        assert found is not None, f"there is no command {word}"
        command, context = found, click.Context(found, parent=context)
    return {name for parameter in command.params for name in parameter.opts}


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_what_a_unit_runs_knows_its_options(unit: Path) -> None:
    words = shlex.split(settings(unit)["ExecStart"])
    used = {word for word in words if word.startswith("--")}
    assert used
    assert used <= known_options(words)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_is_shut_in_and_nobodys_root(unit: Path) -> None:
    told = settings(unit)
    assert {name: told.get(name) for name in SHUT_IN} == SHUT_IN
    assert told["User"].startswith("dpbitfit-")
