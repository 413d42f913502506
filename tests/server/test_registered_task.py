"""A task of one file and one line of the registry: settings, plan, sites, evaluation, report."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dpbitfit_server.central_evaluation import PublicEvaluation

from dpbitfit.errors import InputError
from dpbitfit.planner import NO_HEAD
from dpbitfit.protocol import flower
from dpbitfit.settings import RunSettings
from dpbitfit.tasks import registry

from ..conftest import ROOT
from ..support import slope
from .test_app import QUICK, run


@pytest.fixture
def config(
    project_config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """A run of the small task: it names neither a label set nor what text classification reads."""
    monkeypatch.setitem(registry.TASKS, slope.NAME, slope.PLACE)  # type: ignore[misc]
    data = tmp_path / "numbers.jsonl"
    rows = ({"x": x / 50 - 1, "y": 2 - x / 50} for x in range(100))
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = {"task": slope.NAME, "data": str(data), "out": str(tmp_path), "sites": 2, "units": 5}
    return {**project_config, **QUICK, **own}


def test_settings_come_from_the_tasks_own_declaration(config: dict[str, Any]) -> None:
    settings = RunSettings.read(config)
    assert settings.task == slope.SlopeSettings(units=5)
    task = settings.plan("a", "b", NO_HEAD).task
    assert (task.name, task.settings) == (slope.NAME, {"units": 5})
    del config["units"]
    assert RunSettings.read(config).task == slope.SlopeSettings(units=8)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"units": 0}, "units: must be a whole number from 1 to 64, not 0"),
        ({"units": "5"}, "units: must be a whole number from 1 to 64, not '5'"),
        ({"task": "tests.support.slope:Slope"}, "task: must be one of"),
        ({"task": "text-classification"}, "'labels' is empty"),
    ],
)
def test_what_the_task_does_not_take_is_named(
    config: dict[str, Any], changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        RunSettings.read({**config, **changes})


def test_the_coordinator_evaluates_the_task_that_the_run_names(config: dict[str, Any]) -> None:
    evaluation = PublicEvaluation(RunSettings.read(config))
    size = evaluation.task.layout.size
    assert size == 5 + 1
    (before,) = evaluation(0, flower.to_arrays(evaluation.task.pretrained)).values()
    (after,) = evaluation(1, flower.to_arrays(np.zeros(size, np.float32))).values()
    assert before != after


def test_a_whole_run_trains_it_at_every_site(config: dict[str, Any], tmp_path: Path) -> None:
    report = run(config)
    assert report["plan"]["task"] == {"name": slope.NAME, "settings": {"units": 5}}
    assert report["final"]["headline"] == "error"
    assert report["final"]["weights_moved"] > 0
    assert [line["replies"] for line in report["rounds"]] == [2, 2]
    assert (tmp_path / "model" / "model.safetensors").exists()


def in_a_process_with_the_line(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", f"{slope.LINE}\n{code}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_its_settings_are_options_of_the_command_line_without_torch() -> None:
    code = (
        "import sys; from dpbitfit.simulate_command import command\n"
        "options = {option.opts[0]: option for option in command.params}\n"
        "print(options['--units'].default, options['--units'].help)\n"
        "print(options['--max-length'].default, options['--task'].help)\n"
        "assert 'torch' not in sys.modules"
    )
    done = in_a_process_with_the_line(code)
    assert done.stdout.splitlines() == [
        "8 Width of the hidden layer.",
        "128 What the model is trained for: text-classification, slope.",
    ], done.stderr


def test_a_setting_whose_name_is_taken_is_refused_at_once() -> None:
    code = (
        "from tests.support.slope import SlopeSettings\n"
        "SlopeSettings.model_fields['rounds'] = SlopeSettings.model_fields['units']\n"
        "import dpbitfit.settings"
    )
    done = in_a_process_with_the_line(code)
    assert done.returncode
    assert "the task 'slope': 'rounds' is taken" in done.stderr
