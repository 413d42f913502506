"""The command line and the run configuration say the same."""

import subprocess
import sys
from importlib.metadata import EntryPoints
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from dpbitfit import cli
from dpbitfit.errors import InputError
from dpbitfit.settings import OPTIONS
from dpbitfit.simulate_command import FIXED, command

ELSEWHERE = {"data", "labels", "out"}  # a run by hand must be given these


def test_the_defaults_are_those_of_the_run_configuration(project_config: dict[str, Any]) -> None:
    defaults = {parameter.opts[0][2:]: parameter.default for parameter in command.params}
    shared = defaults.keys() & project_config.keys() - ELSEWHERE
    assert {key: defaults[key] for key in shared} == {key: project_config[key] for key in shared}
    assert project_config.keys() - shared - ELSEWHERE == FIXED.keys()
    assert defaults.keys() - {option.key for option in OPTIONS} == {"json"}


def test_an_error_is_one_line_whatever_it_quotes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise InputError("the model cannot be loaded: no connection.\nSee the documentation.")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    message = capsys.readouterr().err.splitlines()
    assert message == ["error: the model cannot be loaded: no connection. See the documentation."]


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Commands that a role offers, by name; an exception stands for packages that are missing."""
    commands: dict[str, Any] = {}

    class Point:
        def __init__(self, name: str) -> None:
            self.name, self.module = name, "dpbitfit_client.commands"

        def load(self) -> Any:
            result = commands[self.name]
            if isinstance(result, Exception):
                raise result
            return result

    def entry_points(group: str, name: str | None = None) -> EntryPoints:
        assert group == cli.COMMANDS
        names = [one for one in commands if name in (None, one)]
        return EntryPoints([Point(one) for one in names])  # type: ignore[list-item]

    monkeypatch.setattr(cli, "entry_points", entry_points)
    return commands


def test_a_role_offers_functions_and_groups(offered: dict[str, Any]) -> None:
    group = typer.Typer()

    @group.callback()
    def about() -> None:
        """A group of commands."""

    @group.command()
    def serve(port: int) -> None:
        typer.echo(f"serving at {port}")

    def look(name: str) -> None:
        """Look at one."""
        typer.echo(f"looking at {name}")

    offered |= {
        "keep": group,
        "look": look,
        "absent": ModuleNotFoundError("No module named 'grpc'"),
    }
    run = CliRunner().invoke
    assert run(cli.app, ["keep", "serve", "7"]).output == "serving at 7\n"
    assert run(cli.app, ["look", "north"]).output == "looking at north\n"
    listed = run(cli.app, ["--help"]).output
    for message in ("A group of commands.", "Look at one.", "simulate", "ledger"):
        assert message in listed
    assert "absent" not in listed
    with pytest.raises(InputError, match=r"absent: .*'grpc'.*pip install 'dpbitfit\[client\]'"):
        run(cli.app, ["absent"], catch_exceptions=False)
    assert "No such command" in run(cli.app, ["never"]).output


def test_nothing_of_a_role_is_loaded_for_another_command(offered: dict[str, Any]) -> None:
    offered["broken"] = RuntimeError("loaded")
    assert CliRunner().invoke(cli.app, ["calibrate", "--help"]).exit_code == 0


def test_the_core_alone_imports_no_role() -> None:
    code = "import sys, dpbitfit.cli; print([m for m in sys.modules if m.startswith('dpbitfit_')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("words", "note"),
    [
        ("--delta 0.999", "promises nothing from 2 units on"),
        ("--delta 0.5 --declared-size 2", "no less than one in the declared size of 2"),
        ("--delta 0.01 --declared-size 100", "no less than one in the declared size of 100"),
        ("--delta 1e-5", "promises nothing from 100,000 units on"),
        ("--delta 0.0099 --declared-size 100", ""),
    ],
)
def test_calibrate_warns_of_a_delta_that_promises_nothing(words: str, note: str) -> None:
    plan = ("--target-epsilon", "8", "--sampling-rate", "0.5", "--steps", "1")
    done = CliRunner().invoke(cli.app, ["calibrate", *plan, *words.split()])
    assert done.exit_code == 0
    assert done.stdout.startswith("noise multiplier ")
    assert note in done.stderr
    assert bool(done.stderr) == bool(note)
