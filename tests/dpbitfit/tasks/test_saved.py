"""What was trained is stored as a whole: it answers as before, or it is refused."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dpbitfit.engine.biases import read_biases, write_biases
from dpbitfit.errors import InputError
from dpbitfit.tasks.text_classification.files import file_digest
from dpbitfit.tasks.text_classification.settings import TextSettings
from dpbitfit.tasks.text_classification.task import TextClassification

from ...support.saved_models import save_small
from ...support.tasks import text_table

LABELS = ("card_lost", "loan_rate", "other")
TEXTS = ["my card is lost", "what is the rate of a loan?", "Größe", "x", "a long text " * 9]
TABLE = text_table(TEXTS, [0, 1, 2, 2, 1])


def load(folder: str | Path, **settings: object) -> TextClassification:
    return TextClassification.load(str(folder), TextSettings.checked(**settings), LABELS)


def logits(task: TextClassification) -> Tensor:
    return task.logits(task.records(TABLE))


def move(task: TextClassification) -> None:
    """Stand for training: everything that trains is elsewhere afterwards."""
    noise = np.random.default_rng(1).normal(0, 0.3, task.layout.size).astype(np.float32)
    write_biases(task.model, task.layout, read_biases(task.model, task.layout) + noise)


@dataclass
class Trained:
    """A task after training, its base model, and both forms in which it was saved."""

    name: str
    base: str
    head: str
    task: TextClassification
    folder: Path
    adapter: Path


@pytest.fixture(
    scope="module", params=["bert labels", "bert trained", "qwen2 labels", "gpt2 trained"]
)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    name, head = request.param.split()
    out = tmp_path_factory.mktemp(name)
    base = save_small(name, out / "base")
    task = load(base, head=head, logit_scale=10.0)
    untrained = logits(task)
    move(task)
    assert (logits(task) - untrained).abs().max() > 0.1
    task.save(out / "model")
    task.save_adapter(out / "adapter")
    return Trained(name, base, head, task, out / "model", out / "adapter")


def copy(folder: Path, place: Path) -> Path:
    return Path(shutil.copytree(folder, place))


def describe_anew(folder: Path) -> None:
    """Make the description fit to what somebody has changed."""
    path = folder / "dpbitfit.json"
    described = json.loads(path.read_text())
    described["files"] = {name: file_digest(folder / name) for name in described["files"]}
    path.write_text(json.dumps(described))


def test_a_saved_model_answers_as_before(trained: Trained) -> None:
    again = TextClassification.restore(str(trained.folder))
    assert logits(again).numpy() == pytest.approx(logits(trained.task).numpy(), abs=1e-5)
    assert again.labels == LABELS


def test_an_adapter_answers_as_before_on_its_base(trained: Trained) -> None:
    again = TextClassification.restore(str(trained.adapter), trained.base)
    assert logits(again).numpy() == pytest.approx(logits(trained.task).numpy(), abs=1e-5)
    held = load_file(trained.adapter / "adapter.safetensors")
    assert held.keys() == {
        *trained.task.layout.names,
        "head.weight",
        "answers.tokens",
        "answers.logits",
    } | ({"head.bias"} if trained.head == "trained" else set())


def test_training_goes_on_from_the_same_answers(trained: Trained) -> None:
    again = load(trained.folder, head=trained.head, logit_scale=10.0)
    assert logits(again).numpy() == pytest.approx(logits(trained.task).numpy(), abs=1e-5)
    assert again.layout == trained.task.layout
    assert (again.pretrained == read_biases(trained.task.model, trained.task.layout)).all()
    assert load(trained.folder, head=trained.head, logit_scale=10.0).digest == again.digest
    assert again.digest != trained.task.digest


def test_a_fixed_head_may_train_from_where_it_is_and_a_trained_one_is_not_dropped(
    trained: Trained,
) -> None:
    if trained.head == "labels":
        more = load(trained.folder, head="trained", logit_scale=10.0)
        assert logits(more).numpy() == pytest.approx(logits(trained.task).numpy(), abs=1e-5)
        assert {"head.weight", "head.bias"} <= set(more.layout.names)
    else:
        with pytest.raises(InputError, match="head='trained' and logit-scale=10"):
            load(trained.folder, head="labels", logit_scale=10.0)


def test_what_would_change_the_answers_is_refused_where_training_goes_on(trained: Trained) -> None:
    with pytest.raises(InputError, match="logit-scale=10"):
        load(trained.folder, head=trained.head)
    settings = TextSettings.checked(head=trained.head, logit_scale=10.0)
    for labels in (LABELS[::-1], LABELS[:2], ("a", "b", "c")):
        with pytest.raises(InputError, match="a result for other labels"):
            TextClassification.load(str(trained.folder), settings, labels)
    with pytest.raises(InputError, match="an adapter is no model"):
        load(trained.adapter, head=trained.head, logit_scale=10.0)


def test_another_head_makes_another_digest(trained: Trained, tmp_path: Path) -> None:
    """Both sides must start from one head: it is in the digest that they compare."""
    changed = copy(trained.folder, tmp_path / "changed")
    tensors = load_file(changed / "head.safetensors")
    save_file({**tensors, "head.weight": tensors["head.weight"] * 2}, changed / "head.safetensors")
    describe_anew(changed)
    own, other = (
        load(folder, head=trained.head, logit_scale=10.0) for folder in (trained.folder, changed)
    )
    assert own.digest != other.digest


@pytest.mark.parametrize("kind", ["folder", "adapter"])
def test_a_part_is_never_loaded(trained: Trained, kind: str, tmp_path: Path) -> None:
    whole: Path = getattr(trained, kind)
    base = trained.base if kind == "adapter" else ""
    files = [path.relative_to(whole) for path in whole.rglob("*") if path.is_file()]
    assert len(files) >= (2 if base else 9)
    for number, name in enumerate(files):
        lacking = copy(whole, tmp_path / f"lacking-{number}")
        (lacking / name).unlink()
        with pytest.raises(InputError, match=r"is missing|no saved result"):
            TextClassification.restore(str(lacking), base)
        if name.name != "dpbitfit.json":
            content = bytearray((whole / name).read_bytes())
            content[-1] ^= 1
            (lacking / name).write_bytes(content)
            with pytest.raises(InputError, match="is not what was saved"):
                TextClassification.restore(str(lacking), base)
            with pytest.raises(InputError):
                load(lacking, head=trained.head, logit_scale=10.0)


@pytest.mark.parametrize(
    "name", ["adapter_config.json", "added_tokens.json", "pytorch_model.bin", "3_Dense/config.json"]
)
def test_what_came_in_addition_is_refused(trained: Trained, name: str, tmp_path: Path) -> None:
    more = copy(trained.folder, tmp_path / "more")
    (more / "README.md").write_text("# A model\n")
    (more / ".cache").mkdir()
    (more / ".cache" / "x").write_text("")
    TextClassification.restore(str(more))
    (more / name).parent.mkdir(exist_ok=True)
    (more / name).write_text("{}")
    with pytest.raises(InputError, match=f"{name} was not saved with it"):
        TextClassification.restore(str(more))


def test_a_head_without_its_description_is_no_base_either(trained: Trained, tmp_path: Path) -> None:
    lacking = copy(trained.folder, tmp_path / "lacking")
    (lacking / "dpbitfit.json").unlink()
    with pytest.raises(InputError, match=r"its dpbitfit\.json is missing"):
        load(lacking, head=trained.head, logit_scale=10.0)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}'])
def test_a_damaged_description_is_refused(trained: Trained, text: str, tmp_path: Path) -> None:
    damaged = copy(trained.folder, tmp_path / "damaged")
    (damaged / "dpbitfit.json").write_text(text)
    with pytest.raises(InputError, match=r"dpbitfit\.json: "):
        TextClassification.restore(str(damaged))


def test_an_adapter_is_refused_on_another_base(trained: Trained, tmp_path: Path) -> None:
    others = {
        "other weights": save_small(trained.name, tmp_path / "seed", seed=1),
        "the result itself": str(trained.folder),
    }
    for base in others.values():
        with pytest.raises(InputError, match="is an adapter for 'base'"):
            TextClassification.restore(str(trained.adapter), base)
    with pytest.raises(InputError, match="give its base model, 'base'"):
        TextClassification.restore(str(trained.adapter))
    with pytest.raises(InputError, match="is a whole model"):
        TextClassification.restore(str(trained.folder), trained.base)
    with pytest.raises(InputError, match="no saved result"):
        TextClassification.restore(trained.base)


def test_an_adapter_is_refused_where_the_tokenizer_is_another(
    trained: Trained, tmp_path: Path
) -> None:
    """The weights have the right digest, and the answers would be others."""
    base = copy(Path(trained.base), tmp_path / "base")
    tokenizer = json.loads((base / "tokenizer.json").read_text())
    places = tokenizer["model"]["vocab"]
    places["a"], places["e"] = places["e"], places["a"]
    (base / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(InputError, match="answers otherwise than when it was saved"):
        TextClassification.restore(str(trained.adapter), str(base))


@pytest.mark.parametrize("trained", ["bert labels"], indirect=True)
def test_an_adapter_is_refused_where_the_configuration_is_another(
    trained: Trained, tmp_path: Path
) -> None:
    base = copy(Path(trained.base), tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "hidden_act": "relu"}))
    with pytest.raises(InputError, match="answers otherwise than when it was saved"):
        TextClassification.restore(str(trained.adapter), str(base))


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: {**tensors, "head.weight": tensors["head.weight"][:2]},
        lambda tensors: {**tensors, "head.weight": tensors["head.weight"][:, :8]},
        lambda tensors: {**tensors, "head.weight": tensors["head.weight"] * torch.nan},
        lambda tensors: {**tensors, "backbone.nothing.bias": torch.zeros(3)},
        lambda tensors: {name: v for name, v in tensors.items() if name != "answers.logits"},
        lambda tensors: {name: v for name, v in tensors.items() if name != "head.weight"},
    ],
    ids=["labels", "width", "nan", "unknown", "no answers", "no head"],
)
def test_tensors_that_do_not_fit_are_refused(
    trained: Trained, change: object, tmp_path: Path
) -> None:
    assert callable(change)
    wrong = copy(trained.adapter, tmp_path / "wrong")
    tensors = change(load_file(wrong / "adapter.safetensors"))
    save_file(
        {name: value.contiguous() for name, value in tensors.items()}, wrong / "adapter.safetensors"
    )
    describe_anew(wrong)
    with pytest.raises(InputError):
        TextClassification.restore(str(wrong), trained.base)


@pytest.mark.parametrize("trained", ["bert trained"], indirect=True)
def test_a_save_that_dies_leaves_the_earlier_result(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    trained.task.save(folder)
    before = {path.name: path.read_bytes() for path in folder.glob("*.*")}

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trained.task.tokenizer, "save_pretrained", die)
        for place in (folder, tmp_path / "first"):
            with pytest.raises(KeyboardInterrupt):
                trained.task.save(place)
    assert {path.name: path.read_bytes() for path in folder.glob("*.*")} == before
    assert not (tmp_path / "first").exists()
    trained.task.save(folder)
    TextClassification.restore(str(folder))
    assert [path.name for path in tmp_path.iterdir() if "model" in path.name] == ["model"]


@pytest.mark.parametrize("trained", ["bert labels"], indirect=True)
def test_what_was_not_saved_here_is_moved_aside(trained: Trained, tmp_path: Path) -> None:
    for content in ("mine", "mine too"):
        shutil.rmtree(tmp_path / "adapter", ignore_errors=True)
        (tmp_path / "adapter").mkdir()
        (tmp_path / "adapter" / "notes").write_text(content)
        trained.task.save_adapter(tmp_path / "adapter")
        trained.task.save_adapter(tmp_path / "adapter")
        assert not (tmp_path / "adapter" / "notes").exists()
    aside = [tmp_path / f"adapter.before-{number}" / "notes" for number in (1, 2)]
    assert [path.read_text() for path in aside] == ["mine", "mine too"]


ORACLE = """
import sys
import numpy as np
from sentence_transformers import SentenceTransformer
texts = sys.stdin.read().split("\\0")
for folder in sys.argv[1:]:
    model = SentenceTransformer(folder, device="cpu", local_files_only=True)
    np.save(folder + ".npy", model.encode(texts))
"""


def test_sentence_transformers_computes_the_same_embeddings(tmp_path: Path) -> None:
    tasks = {name: load(save_small(name, tmp_path / f"{name}-base")) for name in ("bert", "qwen2")}
    tasks["first"] = load(save_small("bert", tmp_path / "first-base"), max_length=20)
    tasks["first"].model.pooling = "cls"
    for name, task in tasks.items():
        move(task)
        task.save(tmp_path / name)
    assert {task.model.pooling for task in tasks.values()} == {"mean", "lasttoken", "cls"}
    folders = [str(tmp_path / name) for name in tasks]
    done = subprocess.run(
        [sys.executable, "-c", ORACLE, *folders],
        input="\0".join(TEXTS),
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    for name, task in tasks.items():
        own = [task.model.embed(**task.pad(task.tokens([text]))) for text in TEXTS]
        theirs = np.load(tmp_path / f"{name}.npy")
        assert theirs == pytest.approx(torch.cat(own).detach().numpy(), abs=1e-5)
