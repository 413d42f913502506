"""A result answers with the numbers of its training, from Python and from the command line."""

import csv
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import dpbitfit
from dpbitfit.cli import app
from dpbitfit.engine.biases import read_biases, write_biases
from dpbitfit.tasks.text_classification.settings import TextSettings
from dpbitfit.tasks.text_classification.task import TextClassification

from ..support.saved_models import save_small
from ..support.tasks import text_table

LABELS = ("card", "loan, rate", "other")
TEXTS = ["my card is lost", "what is the rate?", "Größe", 'said "no"\nand left', "x"]
TRUTH = [0, 1, 2, 0, 1]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run leaves."""
    folder = tmp_path_factory.mktemp("out")
    base = save_small("qwen2", folder / "base")
    task = TextClassification.load(base, TextSettings.checked(head="trained"), LABELS)
    moved = np.random.default_rng(0).normal(0, 0.1, task.layout.size).astype(np.float32)
    write_biases(task.model, task.layout, read_biases(task.model, task.layout) + moved)
    task.save(folder / "model")
    task.save_adapter(folder / "adapter")
    values = task.evaluate(task.records(text_table(TEXTS, TRUTH)))
    np.save(folder / "loss.npy", values["loss"])
    np.save(folder / "accuracy.npy", values["accuracy"])
    return folder


@pytest.fixture(params=["model", "adapter"])
def loaded(request: pytest.FixtureRequest, out: Path) -> dpbitfit.Predictor:
    return dpbitfit.load(out / request.param, *([out / "base"] if request.param != "model" else []))


def test_the_numbers_are_those_of_training(loaded: dpbitfit.Predictor, out: Path) -> None:
    shares = loaded.probabilities(TEXTS)
    assert -np.log(shares[range(5), TRUTH]) == pytest.approx(np.load(out / "loss.npy"), abs=1e-5)
    predictions = loaded.predict(TEXTS)
    right = [label == LABELS[place] for (label, _), place in zip(predictions, TRUTH, strict=True)]
    assert right == np.load(out / "accuracy.npy").tolist()
    assert [score for _, score in predictions] == shares.max(axis=1).tolist()
    assert len({label for label, _ in predictions}) > 1


def test_one_text_is_no_list_of_texts(loaded: dpbitfit.Predictor) -> None:
    with pytest.raises(dpbitfit.InputError, match=r"a list of texts: \['rash'\]"):
        loaded.predict("rash")


def test_texts_are_read_as_those_of_a_file_are(loaded: dpbitfit.Predictor) -> None:
    (first,) = loaded.predict([" my card is lost\n"])
    assert first == pytest.approx(loaded.predict(TEXTS)[0], abs=1e-6)
    assert loaded.predict([]) == []
    for wrong in ("", " ", None):
        with pytest.raises(dpbitfit.InputError, match="the texts: row 2"):
            loaded.predict(["x", wrong])  # type: ignore[list-item]


@pytest.fixture
def data(tmp_path: Path) -> str:
    path = tmp_path / "texts.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["id", "message"], *enumerate(TEXTS)])
    return str(path)


@pytest.mark.parametrize("kind", ["model", "adapter"])
def test_the_command_writes_a_row_for_each_text(
    kind: str, out: Path, data: str, tmp_path: Path
) -> None:
    given = ["--model", str(out / kind), "--data", data, "--text-column", "message"]
    given += ["--base", str(out / "base")] if kind == "adapter" else []
    printed = CliRunner().invoke(app, ["predict", *given])
    assert printed.exit_code == 0, printed.exception
    rows = list(csv.reader(io.StringIO(printed.stdout)))
    expected = dpbitfit.load(out / "model").predict(TEXTS)
    assert rows[0] == ["row", "label", "score"]
    assert [(row, label) for row, label, _ in rows[1:]] == [
        (str(row), label) for row, (label, _) in enumerate(expected, start=1)
    ]
    scores = [float(score) for _, _, score in rows[1:]]
    assert scores == pytest.approx([score for _, score in expected], abs=1e-5)
    target = tmp_path / "answers.csv"
    assert CliRunner().invoke(app, ["predict", *given, "--out", str(target)]).stdout == ""
    assert list(csv.reader(target.read_text().splitlines())) == rows


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (["--model", "{out}/adapter"], "give its base model, 'base'"),
        (["--model", "{out}/model", "--base", "{out}/base"], "give no base"),
        (["--model", "{out}/base"], "no saved result"),
        (["--model", "{out}/absent"], "no saved result"),
        (["--model", "{out}/model", "--text-column", "text"], "no column 'text'"),
        (["--model", "{out}/model", "--out", "{out}/absent/x.csv"], "cannot be written"),
    ],
)
def test_what_cannot_be_answered_is_said(
    given: list[str], reason: str, out: Path, data: str
) -> None:
    options = [
        "--data",
        data,
        "--text-column",
        "message",
        *(text.format(out=out) for text in given),
    ]
    result = CliRunner().invoke(app, ["predict", *options])
    assert isinstance(result.exception, dpbitfit.InputError)
    assert reason in str(result.exception)
    assert not result.stdout


HUB = """
import sys
from dpbitfit.tasks.text_classification.settings import TextSettings
from dpbitfit.tasks.text_classification.task import TextClassification
import dpbitfit
labels = sys.argv[1:]
for folder, base in (("org/model", ""), ("org/adapter", "org/base")):
    print(dpbitfit.load(folder, base).predict(["my card is lost"])[0].score)
more = TextClassification.load("org/model", TextSettings(head="trained"), labels)
print(dpbitfit.Predictor(more).predict(["my card is lost"])[0].score)
"""


def test_a_result_on_a_hub_is_read_as_a_folder_is(out: Path, tmp_path: Path) -> None:
    """The hub's files are those of its local cache."""
    for kind in ("model", "adapter", "base"):
        repository = tmp_path / "hub" / f"models--org--{kind}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text("0" * 40)
        shutil.copytree(out / kind, repository / "snapshots" / ("0" * 40))
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", HUB, *LABELS],
        env={**os.environ, **offline},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (expected,) = dpbitfit.load(out / "model").predict(["my card is lost"])
    scores = [float(line) for line in done.stdout.split()]
    assert scores == pytest.approx([expected.score] * 3, abs=1e-5)
