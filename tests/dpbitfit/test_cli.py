"""The command line and the run configuration say the same."""

import inspect
from typing import Any

import pytest

from dpbitfit import cli
from dpbitfit.errors import InputError

ELSEWHERE = {"data", "labels", "out"}  # a run by hand must be given these


def test_the_defaults_are_those_of_the_run_configuration(project_config: dict[str, Any]) -> None:
    parameters = inspect.signature(cli.simulate).parameters.values()
    defaults = {parameter.name.replace("_", "-"): parameter.default for parameter in parameters}
    shared = defaults.keys() & project_config.keys() - ELSEWHERE
    assert {key: defaults[key] for key in shared} == {key: project_config[key] for key in shared}
    assert project_config.keys() - shared - ELSEWHERE == {"noise-multiplier", "site-ledgers"}


def test_an_error_is_one_line_whatever_it_quotes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise InputError("the model cannot be loaded: no connection.\nSee the documentation.")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    said = capsys.readouterr().err.splitlines()
    assert said == ["error: the model cannot be loaded: no connection. See the documentation."]
