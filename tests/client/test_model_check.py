"""The doctor loads each model of a policy, and says what of it trains or why it cannot."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dpbitfit_client.doctor import examine
from dpbitfit_client.model_check import check_training
from dpbitfit_client.policy.policy import Policy

from dpbitfit.errors import InputError, ModelError
from dpbitfit.tasks.models import model_digest

from ..dpbitfit.tasks.test_text_classification import save
from ..support.backbones import backbone
from ..support.bfloat16 import units_for_bfloat16
from ..support.policies import changed, read

COORDINATOR = ("datasets", "letters", "coordinators", "trial-office")


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.txt"
    path.write_text("card lost\nloan rate\n")
    return path


def policy_with(folder: Path, labels: Path, **changes: Any) -> Policy:
    """A policy whose data set allows one model."""
    model = {"path": str(folder), "digest": model_digest(folder)} | changes
    values = changed(("models",), {"own": model})
    values = changed((*COORDINATOR, "models"), ["own"], values)
    values = changed(("datasets", "letters", "labels"), str(labels), values)
    return read(labels.parent / "policy.toml", values)


def test_it_says_what_trains_and_what_does_not(tmp_path: Path, labels: Path) -> None:
    folder = Path(save(backbone("deberta-v2"), tmp_path / "model"))
    text = check_training(policy_with(folder, labels), "own")
    assert text.startswith("letters: ")
    assert " values train; not " in text
    assert "backbone.encoder.LayerNorm.bias, because its layer's output" in text


def test_the_doctor_says_how_long_a_record_takes_and_a_guard_that_starts_does_not(
    tmp_path: Path, labels: Path
) -> None:
    """On public probes alone: no record is read."""
    policy = policy_with(Path(save(backbone("bert"), tmp_path / "model")), labels)
    assert not Path(policy.datasets["letters"].parts[0].source).exists()
    time = re.compile(r"each sampled record takes about ([0-9.e+-]+) s of a step")
    (seconds,) = time.findall(check_training(policy, "own"))
    assert float(seconds) > 0
    task: Any = SimpleNamespace(layout=SimpleNamespace(size=7, left_out_by_reason={}))
    assert not time.search(check_training(policy, "own", lambda *_: task))


def test_it_loads_a_model_in_the_policys_precision(tmp_path: Path, labels: Path) -> None:
    policy = policy_with(Path(save(backbone("bert"), tmp_path / "model")), labels)
    lower = policy.model_copy(
        update={"site": policy.site.model_copy(update={"precision": "bfloat16"})}
    )
    with units_for_bfloat16(False):
        assert check_training(policy, "own")
        with pytest.raises(InputError, match="no units for bfloat16"):
            check_training(lower, "own")


def test_it_tries_each_way_that_the_policy_allows(tmp_path: Path, labels: Path) -> None:
    folder = Path(save(backbone("deberta-v2"), tmp_path / "model"))
    policy = policy_with(folder, labels)
    datasets = policy.datasets["letters"]
    for phases, says in (
        (("biases", "dp-zero"), ["values train; not ", "values train by dp-zero"]),
        (("class-sums", "dp-zero"), ["values train by dp-zero"]),
        (("head",), ["values train; not "]),
    ):
        limits = datasets.limits["trial-office"].model_copy(update={"phases": phases})
        allowing = datasets.model_copy(update={"limits": {"trial-office": limits}})
        changed_policy = policy.model_copy(update={"datasets": {"letters": allowing}})
        text = check_training(changed_policy, "own")
        assert text.count("letters: ") == len(says)
        assert all(words in text for words in says)


def test_a_model_that_cannot_be_trained_is_wrong_with_its_cause(
    tmp_path: Path, labels: Path
) -> None:
    folder = Path(save(backbone("xlnet"), tmp_path / "model"))
    with pytest.raises(ModelError, match="bias values only"):
        check_training(policy_with(folder, labels), "own")
    findings = {each.what: each for each in examine(tmp_path / "policy.toml")}
    assert findings["model own"].state == "ok"  # its files are those that the policy names
    assert findings["training of own"].state == "wrong"
    assert "can be trained soundly" in findings["training of own"].text


@pytest.mark.parametrize("damage", ["pointer", "truncated", "no tokenizer"])
def test_files_that_are_no_whole_model_are_wrong(damage: str, tmp_path: Path, labels: Path) -> None:
    folder = Path(save(backbone("bert"), tmp_path / "model"))
    weights = folder / "model.safetensors"
    if damage == "pointer":
        weights.write_text("version https://git-lfs.github.com/spec/v1\n")
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1])
    else:
        (folder / "tokenizer.json").unlink()
    with pytest.raises((InputError, ModelError), match=r"git lfs pull|damaged|its tokenizer"):
        check_training(policy_with(folder, labels), "own")


def test_a_model_that_no_data_set_allows_is_checked_all_the_same(
    tmp_path: Path, labels: Path
) -> None:
    folder = Path(save(backbone("xlnet"), tmp_path / "model"))
    policy = policy_with(folder, labels)
    renamed = policy.model_copy(update={"models": {"spare": policy.models["own"]}})
    with pytest.raises(ModelError, match="bias values only"):
        check_training(renamed, "spare")
