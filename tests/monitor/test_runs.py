"""Runs from their folders, finished, under way or damaged."""

import json
from pathlib import Path
from typing import Any

import pytest
from dpbitfit_monitor.runs import Runs, metric_names

LINE = {
    "run": "r1",
    "round": 0,
    "rounds": 3,
    "metrics": {"accuracy": 0.5, "loss": None},
    "guaranteed": 3.0,
    "accrued": 0.0,
    "bytes_up": 10,
    "bytes_down": 20,
    "replies": 2,
    "refused": 0,
    "seconds": 1.5,
}


def folder(at: Path, *lines: Any, **files: Any) -> Path:
    at.mkdir(parents=True, exist_ok=True)
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (at / "progress.jsonl").write_text("\n".join(texts))
    for name, content in files.items():
        (at / f"{name}.json").write_text(
            content if isinstance(content, str) else json.dumps(content)
        )
    return at


def test_a_run_is_followed_while_it_is_written(tmp_path: Path) -> None:
    at = folder(tmp_path / "out", LINE)
    runs = Runs([at])
    (run,) = runs.all()
    assert (run.folder, run.run, run.state, len(run.rounds)) == ("out", "r1", "running", 1)
    assert runs.all()[0] is run
    folder(at, LINE, {**LINE, "round": 1, "metrics": {"accuracy": 0.75}}, '{"round": 2, "acc')
    (run,) = runs.all()
    assert [each.round for each in run.rounds] == [0, 1]
    assert [each.metrics for each in run.rounds] == [
        {"accuracy": 0.5, "loss": None},
        {"accuracy": 0.75},
    ]
    folder(at, LINE, report={"final": {"stopped": ""}, "model": {"name": "minilm"}})
    assert (runs.all()[0].state, runs.all()[0].model) == ("done", "minilm")
    folder(at, LINE, report={"final": {"stopped": "no site is left"}})
    assert (runs.all()[0].state, runs.all()[0].note) == ("stopped", "no site is left")


def test_a_failure_is_named_by_its_code_alone(tmp_path: Path) -> None:
    at = folder(tmp_path, LINE, error={"code": "bad-input", "message": "row 7 says: Ms Smith"})
    (run,) = Runs([at]).all()
    assert (run.state, run.note) == ("failed", "bad-input")
    assert "Smith" not in repr(run)


def test_a_folder_of_folders_is_searched_one_step_deep(tmp_path: Path) -> None:
    folder(tmp_path / "a", LINE)
    folder(tmp_path / "b", {**LINE, "run": "r2"})
    folder(tmp_path / "c" / "deeper", LINE)
    (tmp_path / "file").touch()
    runs = Runs([tmp_path, tmp_path / "absent"])
    assert {run.run for run in runs.all()} == {"r1", "r2"}
    (tmp_path / "a" / "progress.jsonl").unlink()
    assert {run.run for run in runs.all()} == {"r2"}


@pytest.mark.parametrize(
    "line",
    [
        "",
        "null",
        "[1]",
        "{",
        "[" * 100_000,
        {**LINE, "round": "1"},
        {**LINE, "replies": True},
        {**LINE, "bytes_up": None},
        {**LINE, "metrics": {"loss": "0"}},
        {**LINE, "metrics": {"loss": True}},
        {**LINE, "metrics": {"loss": [1.0]}},
        {**LINE, "metrics": {"": 1.0}},
        {**LINE, "metrics": [1.0]},
        {key: LINE[key] for key in LINE if key != "seconds"},
        json.dumps({**LINE, "metrics": {"loss": float("nan")}}),
        json.dumps({**LINE, "seconds": float("inf")}),
        json.dumps({**LINE, "bytes_up": 10**400}),
        "\udcff".encode("utf-8", "surrogateescape").decode("latin-1"),
    ],
)
def test_a_damaged_line_is_left_out(line: Any, tmp_path: Path) -> None:
    at = folder(tmp_path, line, {**LINE, "round": 1}, traffic="{}", report="[", error="3")
    (run,) = Runs([at]).all()
    assert [each.round for each in run.rounds] == [1]
    assert run.state == "running"


def test_traffic_is_numbers_by_account(tmp_path: Path) -> None:
    content = {"a/b/c": [1, 2], "wrong": [1], "worse": ["1", 2], "none": None}
    (run,) = Runs([folder(tmp_path, LINE, traffic=content)]).all()
    assert run.traffic == {"a/b/c": (1, 2)}


def test_a_round_without_an_evaluation_has_no_metrics(tmp_path: Path) -> None:
    line = {key: value for key, value in LINE.items() if key != "metrics"}
    (run,) = Runs([folder(tmp_path, line, {**LINE, "round": 1})]).all()
    assert [each.metrics for each in run.rounds] == [{}, LINE["metrics"]]
    assert metric_names(run.rounds) == ("accuracy", "loss")
