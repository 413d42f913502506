"""The systemd units: settings and options are known, and each process is kept from the others."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer

from dpbitfit.cli import app
from tests.conftest import ROOT

UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))
# By the names that systemd has for what it looks at.
KEPT = {
    "User=/DynamicUser=",
    "UMask=",
    "ProtectProc=",
    "ProtectSystem=",
    "PrivateTmp=",
    "NoNewPrivileges=",
    "CapabilityBoundingSet=~CAP_SYS_PTRACE",
}

each_unit = pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)


def analyze(*words: str | Path) -> "subprocess.CompletedProcess[str]":
    analyzer = shutil.which("systemd-analyze")
    if analyzer is None:
        pytest.skip("no systemd-analyze: it is in Debian's package systemd")
    return subprocess.run([analyzer, *words], capture_output=True, text=True)


@each_unit
def test_systemd_knows_every_setting(unit: Path) -> None:
    message = analyze("verify", unit).stderr.splitlines()
    elsewhere = "is not executable: No such file or directory"  # the programs are at a site
    assert [line for line in message if not line.endswith(elsewhere)] == []


@each_unit
def test_a_process_sees_and_may_do_only_its_own(unit: Path) -> None:
    done = analyze("security", "--offline=true", "--json=short", unit)
    kept = {each["name"] for each in json.loads(done.stdout) if each["set"]}
    assert KEPT - kept == set()
    assert ("PrivateNetwork=" in kept) == (unit.stem == "dpbitfit-guard")


def started(unit: Path) -> list[str]:
    """The words of the command that a unit runs."""
    text = re.sub(r"\\\n\s*", "", unit.read_text())
    (command,) = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    return shlex.split(command)


def known_options(words: list[str]) -> set[str]:
    """What the program says that it takes."""
    program = Path(words[0]).name
    if program != "dpbitfit":
        output = subprocess.run(
            [Path(sys.executable).with_name(program), "--help"], capture_output=True, text=True
        )
        return set(re.findall(r"--[\w-]+", output.stdout))
    command: click.Command = typer.main.get_command(app)
    context = click.Context(command)
    for word in words[1:]:
        if not isinstance(command, click.Group):
            break
        result = command.get_command(context, word)
        assert result is not None, f"there is no command {word}"
        command, context = result, click.Context(result, parent=context)
    return {name for parameter in command.params for name in parameter.opts}


@each_unit
def test_what_a_unit_runs_knows_its_options(unit: Path) -> None:
    words = started(unit)
    used = {word for word in words if word.startswith("--")}
    assert used
    assert used <= known_options(words)
