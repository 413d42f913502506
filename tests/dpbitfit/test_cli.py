"""The command line and the run configuration say the same."""

import inspect
from typing import Any

from dpbitfit.cli import simulate

ELSEWHERE = {"data", "labels", "out"}  # a run by hand must be given these


def test_the_defaults_are_those_of_the_run_configuration(project_config: dict[str, Any]) -> None:
    parameters = inspect.signature(simulate).parameters.values()
    defaults = {parameter.name.replace("_", "-"): parameter.default for parameter in parameters}
    shared = defaults.keys() & project_config.keys() - ELSEWHERE
    assert {key: defaults[key] for key in shared} == {key: project_config[key] for key in shared}
    assert project_config.keys() - shared - ELSEWHERE == {"noise-multiplier"}
