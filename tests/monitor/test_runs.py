"""Runs as their folders tell of them, finished, under way or damaged."""

import json
from pathlib import Path
from typing import Any

import pytest
from dpbitfit_monitor.runs import Runs

LINE = {
    "run": "r1",
    "round": 0,
    "rounds": 3,
    "accuracy": 0.5,
    "loss": None,
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
    texts = [one if isinstance(one, str) else json.dumps(one) for one in lines]
    (at / "progress.jsonl").write_text("\n".join(texts))
    for name, told in files.items():
        (at / f"{name}.json").write_text(told if isinstance(told, str) else json.dumps(told))
    return at


def test_a_run_is_followed_while_it_is_written(tmp_path: Path) -> None:
    at = folder(tmp_path / "out", LINE)
    runs = Runs([at])
    (one,) = runs.all()
    assert (one.folder, one.run, one.state, len(one.rounds)) == ("out", "r1", "running", 1)
    assert runs.all()[0] is one
    folder(at, LINE, {**LINE, "round": 1, "accuracy": 0.75}, '{"round": 2, "acc')
    (one,) = runs.all()
    assert [each.number for each in one.rounds] == [0, 1]
    assert (one.rounds[1].accuracy, one.rounds[1].loss) == (0.75, None)
    folder(at, LINE, report={"final": {"stopped": ""}, "model": {"name": "minilm"}})
    assert (runs.all()[0].state, runs.all()[0].model) == ("done", "minilm")
    folder(at, LINE, report={"final": {"stopped": "nobody is left"}})
    assert (runs.all()[0].state, runs.all()[0].note) == ("stopped", "nobody is left")


def test_a_failure_is_named_by_its_code_alone(tmp_path: Path) -> None:
    at = folder(tmp_path, LINE, error={"code": "bad-input", "message": "row 7 says: Ms Smith"})
    (one,) = Runs([at]).all()
    assert (one.state, one.note) == ("failed", "bad-input")
    assert "Smith" not in repr(one)


def test_a_folder_of_folders_is_searched_one_step_deep(tmp_path: Path) -> None:
    folder(tmp_path / "a", LINE)
    folder(tmp_path / "b", {**LINE, "run": "r2"})
    folder(tmp_path / "c" / "deeper", LINE)
    (tmp_path / "file").touch()
    runs = Runs([tmp_path, tmp_path / "absent"])
    assert {one.run for one in runs.all()} == {"r1", "r2"}
    (tmp_path / "a" / "progress.jsonl").unlink()
    assert {one.run for one in runs.all()} == {"r2"}


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
        {**LINE, "loss": "0"},
        {key: LINE[key] for key in LINE if key != "seconds"},
        json.dumps({**LINE, "loss": float("nan")}),
        json.dumps({**LINE, "seconds": float("inf")}),
        json.dumps({**LINE, "bytes_up": 10**400}),
        "\udcff".encode("utf-8", "surrogateescape").decode("latin-1"),
    ],
)
def test_a_line_that_is_none_is_passed_over(line: Any, tmp_path: Path) -> None:
    at = folder(tmp_path, line, {**LINE, "round": 1}, traffic="{}", report="[", error="3")
    (one,) = Runs([at]).all()
    assert [each.number for each in one.rounds] == [1]
    assert one.state == "running"


def test_traffic_is_numbers_by_account(tmp_path: Path) -> None:
    told = {"a/b/c": [1, 2], "wrong": [1], "worse": ["1", 2], "none": None}
    (one,) = Runs([folder(tmp_path, LINE, traffic=told)]).all()
    assert one.traffic == {"a/b/c": (1, 2)}
