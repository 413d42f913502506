"""A task's name selects built-in code or the site's own; it never imports what it says."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest

from dpbitfit.errors import InputError, PolicyError
from dpbitfit.tasks.base import Metric
from dpbitfit.tasks.registry import (
    TASKS,
    TEXT_CLASSIFICATION,
    read_settings,
    resolve,
)
from dpbitfit.tasks.text_classification.settings import TextSettings
from dpbitfit.tasks.text_classification.task import TextClassification

OWN = {"own": f"{__name__}:Own"}


class Own(TextClassification):
    """A task of a site."""


class NoMetrics(Own):
    metrics: ClassVar[Mapping[str, Metric]] = {}


def test_a_name_selects_built_in_code_or_what_the_policy_maps_it_to() -> None:
    for name in TASKS:
        assert resolve(name, {}) is resolve(name, OWN)
    assert issubclass(TextClassification, resolve(TEXT_CLASSIFICATION, {}))
    assert resolve("own", OWN) is Own
    assert resolve(TEXT_CLASSIFICATION, {TEXT_CLASSIFICATION: OWN["own"]}) is Own


def test_a_name_never_imports_what_a_coordinator_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "brought_by_a_coordinator.py").write_text("class Task: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    names = ("brought_by_a_coordinator:Task", "brought_by_a_coordinator", "own ", "", OWN["own"])
    for name in names:
        with pytest.raises(PolicyError, match="does not allow the task"):
            resolve(name, OWN)
    assert "brought_by_a_coordinator" not in sys.modules


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("no_such_module_at_all:Task", "there is no class"),
        (f"{__name__}:Absent", "there is no class"),
        (f"{__name__}", "there is no class"),
        ("pathlib:Path", "has no 'Settings'"),
        (f"{__name__}:NoMetrics", "its headline is no metric"),
    ],
)
def test_a_class_of_the_sites_that_is_no_task_is_named(place: str, reason: str) -> None:
    with pytest.raises(PolicyError, match=reason):
        resolve("own", {"own": place})


def test_settings_come_from_a_plan_or_a_mapping_and_are_checked() -> None:
    settings = TextSettings(head="trained", logit_scale=2.5, max_length=8)
    assert read_settings(TextClassification, settings.model_dump()) == settings
    for wrong in (
        {"head": "other"},
        {"logit_scale": 0.0},
        {"logit_scale": float("nan")},
        {"max_length": 0},
        {"max_length": "8"},
        {"more": 1},
    ):
        with pytest.raises(InputError, match=f"the task's setting {next(iter(wrong))}"):
            read_settings(TextClassification, wrong)


def test_declarations_need_no_torch() -> None:
    code = (
        "import sys, dpbitfit.tasks.registry, dpbitfit.tasks.text_classification.settings;"
        "sys.exit(bool({'torch', 'transformers', 'flwr'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
