"""One real Flower run through the command line, and its figures checked from outside."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from dp_accounting import dp_event
from dp_accounting.pld import PLDAccountant
from safetensors.numpy import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

from dpbitfit.ledger import Ledger

from ..support import warm
from ..support.shallow import narrow_minilm

ROUNDS, STEPS, RATE = 2, 2, 0.2
BUDGET = 4.7


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", warm.MAIN, *arguments]


def simulate_arguments(data: Path, out: Path) -> list[str]:
    labels = data.with_suffix(".labels.txt")
    return [
        *("simulate", "--data", str(data), "--labels", str(labels), "--out", str(out)),
        *("--phases", "biases", "--head", "labels", "--sites", "3"),
        *("--rounds", str(ROUNDS), "--steps-per-round", str(STEPS)),
        *("--sampling-rate", str(RATE), "--max-length", "24", "--test-fraction", "0.5"),
    ]


def added_up(data: Path, out: Path, ledger: Path) -> list[str]:
    """The arguments of a run whose ledgers stay."""
    return [*simulate_arguments(data, out), "--ledger", str(ledger), "--target-epsilon", "3"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "messages.csv"
    subprocess.run(command("corpus", str(path), "--records", "400"), check=True)
    return path


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept") / "ledger"


@pytest.fixture(scope="module")
def out(data: Path, ledger: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    elsewhere = {**os.environ, "RAY_ADDRESS": "127.0.0.1:1"}  # no cluster: it has a Ray of its own
    done = subprocess.run(
        command(*added_up(data, out, ledger), "--budget", str(BUDGET)),
        **{"capture_output": True, "text": True, "timeout": 600, "env": elsewhere},
    )
    assert done.returncode == 0, done.stderr[-3000:] + (out / "flower.log").read_text()[-3000:]
    return out


@pytest.fixture(scope="module")
def report(out: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((out / "report.json").read_text())
    return loaded


def test_every_site_is_within_its_budget_and_agrees_with_an_independent_accountant(
    report: dict[str, Any],
) -> None:
    assert len(report["sites"]) == 3
    for site in report["sites"]:
        accountant = PLDAccountant()
        (mechanism,) = site["mechanisms"]
        step = dp_event.PoissonSampledDpEvent(
            mechanism["sampling_rate"], dp_event.GaussianDpEvent(mechanism["noise_multiplier"])
        )
        accountant.compose(step, site["steps"])
        assert site["steps"] == ROUNDS * STEPS
        assert 2.9 < site["guaranteed"] <= 3
        assert site["budget"] == BUDGET
        assert site["guaranteed"] == pytest.approx(accountant.get_epsilon(site["delta"]), abs=0.05)


def test_two_runs_compose_and_a_third_is_refused_before_any_training(
    report: dict[str, Any], data: Path, ledger: Path, tmp_path: Path
) -> None:
    """The accounts keep the budget that the first one gave them."""
    again = [*added_up(data, tmp_path / "out", ledger), "--json", "--model", narrow_minilm()]
    runs = [warm.run(warm.MAIN, *again, timeout=600) for _ in range(2)]
    assert [run.returncode for run in runs] == [0, 3], [run.stderr[-2000:] for run in runs]
    first, second = report["sites"][0], json.loads(runs[0].stdout)["sites"][0]
    assert first["guaranteed"] < second["accrued"] <= second["guaranteed"] == BUDGET
    message = runs[1].stderr
    named = r"account site-\d/messages-\w+/record: with this plan epsilon would be \d\.\d"
    assert re.search(named, message)
    assert f"above its budget of {BUDGET}; " in message
    assert "steps at rate 0.2 fit with noise multiplier" in message
    ledgers = [ledger / "coordinator.sqlite", *(ledger / "sites").glob("*.sqlite")]
    assert len(ledgers) == 4
    for path in ledgers:
        kept = Ledger(str(path), readonly=True)
        for account in kept.accounts():
            kinds = [event.kind for event in kept.events(account.name)]
            assert kinds == ["open", *["allot", *["reserve", "commit"] * ROUNDS] * 2]


def test_the_report_is_complete(report: dict[str, Any], out: Path) -> None:
    assert [line["round"] for line in report["rounds"]] == list(range(1, ROUNDS + 1))
    assert all(line["replies"] == 3 and line["refused"] == 0 for line in report["rounds"])
    assert report["final"]["weights_moved"]
    assert report["privacy"]["unit"] == "record"
    assert report["communication"]["ratio"] > 800
    assert (out / "report.html").read_text().count("<svg") >= 3


def test_the_model_loads_with_from_pretrained_and_holds_the_biases(out: Path) -> None:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(out / "model")
    parameters = dict(model.named_parameters())
    adapter = load_file(out / "adapter" / "adapter.safetensors")
    biases = {name: value for name, value in adapter.items() if name.startswith("backbone.")}
    assert biases
    for name, value in biases.items():
        result = [p for n, p in parameters.items() if name.endswith(n)]
        assert any((p.detach().numpy() == value).all() for p in result if p.shape == value.shape)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_no_process_behind(
    stop: signal.Signals, data: Path, tmp_path: Path
) -> None:
    words = [*simulate_arguments(data, tmp_path / "out"), "--model", narrow_minilm()]
    words += ["--rounds", "50"]  # so many that it is interrupted long before its end
    run = subprocess.Popen(command(*words), stderr=subprocess.DEVNULL)
    progress = tmp_path / "out" / "progress.jsonl"
    deadline = time.monotonic() + 180
    while not progress.exists() and time.monotonic() < deadline and run.poll() is None:
        time.sleep(0.2)
    family = psutil.Process(run.pid).children(recursive=True)
    homes = {process.cwd() for process in family} - {os.getcwd()}
    assert len(homes) == 1
    assert len(list(living_in(homes))) > 5
    run.send_signal(stop)
    assert run.wait(60) == 130
    assert list(living_in(homes)) == []
    assert not Path(homes.pop()).exists()


def test_a_simulation_that_is_killed_ends_and_is_resumed(data: Path, tmp_path: Path) -> None:
    words = [*simulate_arguments(data, tmp_path / "out"), "--model", narrow_minilm()]
    run = subprocess.Popen(command(*words), stderr=subprocess.DEVNULL)
    progress = tmp_path / "out" / "progress.jsonl"
    while not progress.exists() and run.poll() is None:
        time.sleep(0.1)
    homes = {p.cwd() for p in psutil.Process(run.pid).children(recursive=True)} - {os.getcwd()}
    run.kill()
    assert run.wait(60) == -signal.SIGKILL
    deadline = time.monotonic() + 60
    while list(living_in(homes)) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert list(living_in(homes)) == []
    assert not Path(homes.pop()).exists()
    subprocess.run(command(*words, "--resume"), check=True, timeout=600)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [line["round"] for line in report["rounds"]] == [*range(1, ROUNDS + 1)]
    assert [site["steps"] for site in report["sites"]] == [ROUNDS * STEPS] * 3


def living_in(folders: set[str]) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.cwd().removesuffix(" (deleted)") in folders:
                yield process


BAD = {
    "missing column": (["--text-column", "nothing"], "nothing"),
    "rate above 1": (["--sampling-rate", "1.5"], "sampling"),
    "target epsilon 0": (["--target-epsilon", "0"], "epsilon"),
    "more sites than records": (["--sites", "5000"], "sites"),
    "one label": (["--labels", "only"], "label"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_answers_with_one_line(case: str, data: Path, tmp_path: Path) -> None:
    extra, word = BAD[case]
    done = run_simulation(data, tmp_path, *extra)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert word in done.stderr.lower()


@pytest.mark.parametrize(
    ("rows", "word"),
    [([["hello", ""]], "label"), ([["", "card_arrival"]], "text"), ([], "")],
    ids=["no label", "empty text", "no records"],
)
def test_bad_rows_answer_with_one_line(rows: list[list[str]], word: str, tmp_path: Path) -> None:
    data = tmp_path / "data.csv"
    write_rows(data, rows)
    (tmp_path / "data.labels.txt").write_text("card_arrival\ncard_lost\n")
    done = run_simulation(data, tmp_path / "out")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert word in done.stderr.lower()


def test_an_unknown_label_in_the_test_file_answers_with_one_line(
    data: Path, tmp_path: Path
) -> None:
    write_rows(tmp_path / "test.csv", [["hello", "card_lost"], ["hi", "mortgage"]])
    extra = ["--test-data", str(tmp_path / "test.csv")]
    done = run_simulation(data, tmp_path / "out", *extra)
    assert done.returncode == 2
    assert "test.csv: row 2: its label is not in the public label set" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_model_without_biases_answers_with_one_line(data: Path, tmp_path: Path) -> None:
    """Found before anything is started."""
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 20}
    LlamaModel(LlamaConfig(**shape, intermediate_size=8)).save_pretrained(tmp_path / "model")
    letters = {letter: number for number, letter in enumerate("etaoinshr", start=2)}
    words = Tokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1, **letters}, unk_token="[UNK]"))
    words.pre_tokenizer = Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]"
    )
    tokenizer.save_pretrained(tmp_path / "model")
    done = run_simulation(data, tmp_path / "out", "--model", str(tmp_path / "model"))
    assert done.returncode == 2
    assert "the model has no biases to train" in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr


def write_rows(path: Path, rows: list[list[str]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["text", "label"], *rows])


def run_simulation(data: Path, out: Path, *extra: str) -> "subprocess.CompletedProcess[str]":
    return warm.run(warm.MAIN, *simulate_arguments(data, out), *extra)
