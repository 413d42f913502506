"""What a simulation that failed says: one last line, with the cause."""

import json
import sys
from pathlib import Path

import pytest

from dpbitfit import cli, simulate
from dpbitfit.errors import BudgetError, DpbitfitError, InputError, ProtocolError, RunFailed

from ..support.shallow import narrow_minilm


@pytest.mark.parametrize(
    ("code", "kind", "names_log"),
    [
        ("bad-input", InputError, False),
        ("budget", BudgetError, False),
        ("protocol", ProtocolError, True),  # why a site refuses is in the log alone
        ("run-failed", RunFailed, True),
        ("of a later version", RunFailed, True),
    ],
)
def test_a_failure_is_the_runs_own_error(
    code: str, kind: type[DpbitfitError], names_log: bool, tmp_path: Path
) -> None:
    (tmp_path / "error.json").write_text(json.dumps({"code": code, "message": "what went wrong"}))
    with pytest.raises(kind, match=r"^what went wrong") as raised:
        simulate._result(tmp_path, tmp_path / "flower.log")
    assert str(raised.value).endswith("flower.log") == names_log


def test_a_run_that_left_nothing_names_its_log(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"without a report; its log is .*flower\.log"):
        simulate._result(tmp_path, tmp_path / "flower.log")


def test_a_runtime_that_crashed_is_the_cause_whatever_the_run_fails_with_after_it(
    tmp_path: Path,
) -> None:
    failure = {"code": "bad-input", "message": "the model cannot be loaded"}
    (tmp_path / "error.json").write_text(json.dumps(failure))
    log = tmp_path / "flower.log"
    log.write_text("Exception: The current node timed out\nSimulation Runtime crashed.\n")
    with pytest.raises(RunFailed, match=r"runtime crashed, .* --resume; its log is .*flower\.log"):
        simulate._result(tmp_path, log)


@pytest.mark.parametrize(
    ("option", "place"), [("out", "taken"), ("out", "taken/inside"), ("ledger", "taken")]
)
def test_results_that_have_no_place_are_refused_in_one_line(
    option: str,
    place: str,
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "taken").write_text("mine")
    labels = str(corpus.with_suffix(".labels.txt"))
    words = ["--data", str(corpus), "--labels", labels, "--out", str(tmp_path / "out")]
    words += [f"--{option}", str(tmp_path / place), "--model", narrow_minilm()]
    monkeypatch.setattr(sys, "argv", ["dpbitfit", "simulate", *words, "--sites", "2"])
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --{option}: {tmp_path / place} cannot be a folder")
    assert (tmp_path / "taken").read_text() == "mine"
