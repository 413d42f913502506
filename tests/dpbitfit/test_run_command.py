"""``dpbitfit run`` over Flower's tools: what it shows, how it ends, what it asks for."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from dpbitfit import cli, run_command, stream
from dpbitfit.errors import BudgetError, DpbitfitError, ProtocolError

GIVEN = ("--labels", "/d/labels.txt", "--test-data", "/d/test.csv")
GIVEN += ("--out", "/d/out", "--ledger", "/d/ledger.sqlite", "--declared-size", "100")
GIVEN += ("--phases", "biases", "--noise-multiplier", "1")

# Stands in for ``flwr``: answers from a file, and writes down what it was asked.
FAKE = """
import json, pathlib, shutil, sys
here = pathlib.Path(sys.argv[0]).parent
answers = json.loads((here / "answers.json").read_text())
with (here / "asked.jsonl").open("a") as file:
    print(json.dumps(sys.argv[1:]), file=file)
if sys.argv[1] == "run":
    shutil.copy(pathlib.Path(sys.argv[2]) / "pyproject.toml", here)
answer = answers[sys.argv[1]]
if isinstance(answer, list):  # a different one each time, the last again and again
    asked = (here / "asked.jsonl").read_text().count(f'["{sys.argv[1]}"')
    answer = answer[min(asked, len(answer)) - 1]
print(answer, end="")
"""


class Flower:
    """What the fake tool answers, and was asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "flwr.py").write_text(FAKE)
        self.starts()
        self.ends("finished:completed")
        self.logs("")

    def starts(self, **answer: Any) -> None:
        self._set(run=json.dumps({"success": True, "run-id": "17", **answer}))

    def ends(self, *states: str, details: str = "") -> None:
        runs = [[{"status": state, "status-details": details}] for state in states]
        self._set(list=[json.dumps({"success": True, "runs": run}) for run in runs])

    def logs(self, *texts: str) -> None:
        self._set(log=list(texts))

    def asked(self, what: str) -> list[list[str]]:
        lines = map(json.loads, (self.folder / "asked.jsonl").read_text().splitlines())
        return [line[1:] for line in lines if line[0] == what]

    def _set(self, **answers: Any) -> None:
        path = self.folder / "answers.json"
        before = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(before | answers))


@pytest.fixture
def flower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flower:
    flower = Flower(tmp_path)
    monkeypatch.setattr(run_command, "tool", lambda _: [sys.executable, str(tmp_path / "flwr.py")])
    monkeypatch.setattr(run_command, "PAUSE_SECONDS", 0.0)
    return flower


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int | str | None:
    """The status of ``dpbitfit run``."""
    monkeypatch.setattr(sys, "argv", ["dpbitfit", "run", "trial", *GIVEN, *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


def logged(*texts: str) -> str:
    """A log in which the coordinator says this, among what else is there."""
    noise = "INFO :      configure_train: Sampled 2 nodes\nTraceback (most recent call last):\n"
    marked = (text if text.startswith("dpbitfit failed") else stream.marked(text) for text in texts)
    return noise + "".join(f"\x1b[92mINFO\x1b[0m :      {line}\n" for line in marked)


def test_a_run_shows_what_the_coordinator_says_and_ends_well(
    flower: Flower, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flower.logs(logged("hospital-1 takes part", "round 1/1  accuracy 0.5", "the model is in /d"))
    assert run(monkeypatch, "--rounds", "7", "--resume") == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown == [
        *("run 17 has started", "hospital-1 takes part"),
        *("round 1/1  accuracy 0.5", "the model is in /d"),
    ]
    assert flower.asked("log") == [["17", "trial"]]
    project = (flower.folder / "pyproject.toml").read_text()
    for line in ("rounds = 7", "resume = true", 'ledger = "/d/ledger.sqlite"', 'data = ""'):
        assert line in project


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ProtocolError("no site takes part: hospital-1: its policy does not allow this plan"), 2),
        (BudgetError("the plan costs epsilon 9.000, above the budget of 8"), 3),
        (ValueError("of the code"), 2),
    ],
)
def test_a_run_that_fails_ends_with_its_cause_in_one_last_line(
    error: Exception,
    status: int,
    flower: Flower,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flower.logs(logged("hospital-1 is turned away: why", stream.failure(error)))
    flower.ends("finished:failed", details="ServerApp failed with exception: so")
    assert run(monkeypatch) == status
    shown = capsys.readouterr()
    assert shown.out.splitlines() == ["run 17 has started", "hospital-1 is turned away: why"]
    kind = "" if isinstance(error, DpbitfitError) else "ValueError: "
    assert shown.err.splitlines() == [f"error: {kind}{error}"]


@pytest.mark.parametrize(
    ("state", "details", "cause"),
    [
        ("finished:failed", "ServerApp failed with exception: No module named 'x'", "No module"),
        ("finished:failed", "", "the run has failed"),
        ("finished:stopped", "Stopped by user", "the run was stopped"),
    ],
)
def test_a_run_that_cannot_say_why_it_ended_is_no_success(
    state: str,
    details: str,
    cause: str,
    flower: Flower,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flower.ends(state, details=details)
    assert run(monkeypatch) == 2
    assert cause in capsys.readouterr().err


def test_a_log_that_is_cut_off_is_taken_up_where_it_was(
    flower: Flower, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flower.logs(logged("first"), "", logged("first", "second"))
    flower.ends("running", "running", "finished:completed")
    assert run(monkeypatch) == 0
    assert capsys.readouterr().out.splitlines() == ["run 17 has started", "first", "second"]


def test_what_flower_refuses_is_one_line(
    flower: Flower, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flower.starts(success=False, **{"error-message": "Failed to connect\nto the SuperLink"})
    assert run(monkeypatch) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: flwr run: Failed to connect to the SuperLink"


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (["--out", "out"], "--out: out must be an absolute path"),
        (["--ledger", "ledger.sqlite"], "--ledger: ledger.sqlite must be an absolute path"),
        (["--sampling-rate", "1.5"], "sampling-rate"),
        (["--declared-size", "0", "--phases", "head,biases"], "declared-size"),
        (["--noise-multiplier", "0", "--target-epsilon", "0"], "epsilon"),
    ],
)
def test_what_cannot_be_run_is_not_started(
    words: list[str],
    cause: str,
    flower: Flower,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, *words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert cause in line
    assert not (flower.folder / "asked.jsonl").exists()


def test_a_ledger_may_be_a_database(flower: Flower, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, "--ledger", "postgresql://user@host/name") == 0
    assert len(flower.asked("run")) == 1
