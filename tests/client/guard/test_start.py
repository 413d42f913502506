"""A guard loads each model of its policy before it answers, and starts with none that is wrong."""

import grp
import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from dpbitfit_client.doctor import examine
from dpbitfit_client.guard import task_cache
from dpbitfit_client.guard.service import serving
from dpbitfit_client.policy.policy import Policy
from safetensors.torch import load_file, save_file

from dpbitfit.errors import DpbitfitError
from dpbitfit.ledger import Ledger
from dpbitfit.protocol.messages import Description
from dpbitfit.tasks.base import Task
from dpbitfit.tasks.models import model_digest
from dpbitfit.tasks.text_classification.settings import TextTask

from ...dpbitfit.tasks.test_text_classification import save
from ...support import plans, warm
from ...support.backbones import backbone
from ...support.bfloat16 import units_for_bfloat16
from ...support.coordinators import Coordinator
from ...support.policies import written
from ...support.saved_models import byte_tokenizer, save_small
from ...support.tasks import load_text

LABELS = ("card lost", "loan rate")


@pytest.fixture
def office(tmp_path: Path) -> Coordinator:
    folder = tmp_path / "office"
    folder.mkdir()
    return Coordinator(folder)


def policy_with(folder: Path, office: Coordinator, models: dict[str, str], **limits: Any) -> Path:
    """The policy file of a site that is ready, with these models by their folders."""
    (folder / "labels.txt").write_text("\n".join(LABELS))
    (folder / "data.csv").write_text("text,label\nmy card is lost,card lost\nthe rate,loan rate\n")
    Ledger(str(folder / "site.sqlite"), create=True).database.close()
    values = {
        "site": {
            "name": "hospital-1",
            "ledger": str(folder / "site.sqlite"),
            "socket": str(folder / "guard.sock"),
            "group": grp.getgrgid(os.getegid()).gr_name,
        },
        "coordinators": {"office": {"public-key": office.ledger.id}},
        "models": {
            name: {"path": path, "digest": model_digest(Path(path))}
            for name, path in models.items()
        },
        "datasets": {
            "letters": {
                "path": str(folder / "data.csv"),
                "labels": str(folder / "labels.txt"),
                "declared-size": 2,
                "epsilon": 8.0,
                "delta": 1e-5,
                "coordinators": {
                    "office": {
                        **{"min-noise-multiplier": 1.0, "max-sampling-rate": 0.5},
                        **{"max-steps-per-round": 10, "max-rounds": 10, "models": [*models]},
                        **limits,
                    }
                },
            }
        },
    }
    file = folder / "policy.toml"
    file.write_text(written(values)[0])
    file.chmod(0o600)
    return file


def not_a_number(folder: Path) -> None:
    """One weight of a model is none."""
    file = folder / "model.safetensors"
    weights = load_file(file)
    weights[min(weights)].view(-1)[0] = torch.nan
    save_file(weights, file, {"format": "pt"})


def truncated(folder: Path) -> None:
    """A copy that broke off."""
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])


def without_tokenizer(folder: Path) -> None:
    """Of which only the weights were copied."""
    (folder / "tokenizer.json").unlink()


def of_another_tokenizer(folder: Path) -> None:
    """Whose tokenizer knows more tokens than the model."""
    byte_tokenizer().save_pretrained(folder)


FAULTS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "not a number": ("bert", not_a_number),
    "truncated": ("bert", truncated),
    "without tokenizer": ("bert", without_tokenizer),
    "of another tokenizer": ("bert", of_another_tokenizer),
    "unsound": ("xlnet", lambda _: None),
    "of pictures": ("vit", lambda _: None),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_model_that_cannot_be_trained_starts_no_guard_in_the_doctors_words(
    tmp_path: Path, office: Coordinator, fault: str
) -> None:
    name, damage = FAULTS[fault]
    sound = save(backbone("bert"), tmp_path / "sound")
    folder = Path(save(backbone(name), tmp_path / "model"))
    damage(folder)
    policy = policy_with(tmp_path, office, {"sound": sound, "own": str(folder)})
    findings = {each.what: each for each in examine(policy)}
    assert findings["model own"].state == findings["training of sound"].state == "ok"
    wrong = findings["training of own"]
    assert wrong.state == "wrong"
    with pytest.raises(DpbitfitError) as refused, serving(Policy.read(policy)):
        pass
    assert str(refused.value) == f"training of own: {wrong.text}"
    assert not (tmp_path / "guard.sock").exists()  # it never answered


def test_a_guard_checks_its_models_in_its_policys_precision(
    tmp_path: Path, office: Coordinator
) -> None:
    policy = policy_with(tmp_path, office, {"own": save(backbone("bert"), tmp_path / "model")})
    site = '["site"]\n'
    text = policy.read_text()
    assert text.count(site) == 1
    policy.write_text(text.replace(site, f'{site}precision = "bfloat16"\n'))
    with units_for_bfloat16(), serving(Policy.read(policy)):
        pass
    with units_for_bfloat16(False):
        findings = {each.what: each for each in examine(policy)}
        assert "no units for bfloat16" in findings["training of own"].text
        with pytest.raises(DpbitfitError, match="no units"), serving(Policy.read(policy)):
            pass


def test_a_worker_computes_in_the_guards_precision(
    tmp_path: Path, office: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = policy_with(tmp_path, office, {"own": save(backbone("bert"), tmp_path / "model")})
    site = '["site"]\n'
    more = 'precision = "bfloat16"\ndevice = ["cpu", "cpu"]\n'
    policy.write_text(policy.read_text().replace(site, site + more))
    given: list[Callable[..., Task]] = []

    class Workers(task_cache.Workers):
        def start(self) -> None:
            given.append(self._load)

        def ready(self, task: Task) -> None:
            """There are none."""

    monkeypatch.setattr(task_cache, "Workers", Workers)
    with units_for_bfloat16(), serving(Policy.read(policy)):
        assert given
    with units_for_bfloat16(False), pytest.raises(DpbitfitError, match="no units"):
        given[0](device="cpu")


def test_what_a_guard_has_checked_is_what_it_answers_with(
    tmp_path: Path,
    office: Coordinator,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The first question waits for no model; the log says what is checked, and what trains."""
    policy = policy_with(tmp_path, office, {"own": save_small("bert", tmp_path / "model")})
    loaded = []
    load = TextTask.load

    def counted(folder: str, *others: Any) -> Any:
        loaded.append(folder)
        return load(folder, *others)

    monkeypatch.setattr(TextTask, "load", counted)
    caplog.set_level(logging.INFO, "dpbitfit.guard")
    with serving(Policy.read(policy)) as guard:
        assert loaded == [str(tmp_path / "model")]
        settings: dict[str, Any] = {"dataset": "letters", "model": "own", "head": "trained"}
        reply = guard.describe(office.question(plans.plan(**settings)))
        assert Description.decode(reply.statement).facts.parameters > 0
        assert len(loaded) == 1
        guard.describe(office.question(plans.plan(**settings, max_length=16)))
        assert len(loaded) == 2  # another setting is another task
    checked = [message for message in caplog.messages if "training of own" in message]
    assert checked[0] == "checking the training of own"
    assert "values train" in checked[1]


def result(folder: Path, **settings: Any) -> str:
    """A stored result: a model with a head of its own, for its own settings."""
    task = load_text(save_small("bert", folder / "base"), LABELS, **settings)
    task.save(folder / "result")
    return str(folder / "result")


@pytest.mark.parametrize("head", ["labels", "trained"])
def test_a_result_is_checked_with_the_settings_with_which_it_goes_on(
    tmp_path: Path, office: Coordinator, head: str
) -> None:
    model = result(tmp_path, head=head, logit_scale=7.0)
    policy = policy_with(tmp_path, office, {"own": model}, heads=[head])
    findings = {each.what: each for each in examine(policy)}
    assert findings["training of own"].state == "ok", findings["training of own"].text
    with serving(Policy.read(policy)) as guard:
        plan = plans.plan(dataset="letters", model="own", head=head, logit_scale=7.0)
        reply = guard.describe(office.question(plan))
        assert Description.decode(reply.statement).facts.parameters > 0


@pytest.mark.parametrize("limits", [{"heads": ["labels"]}, {"max-length": 16}])
def test_a_model_is_checked_within_the_limits(
    tmp_path: Path, office: Coordinator, limits: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What no plan may have is no reason to start with nothing."""
    tried = []
    load = TextTask.load

    def noted(folder: str, settings: Any, labels: Any) -> Any:
        tried.append(settings)
        return load(folder, settings, labels)

    monkeypatch.setattr(TextTask, "load", noted)
    model = save_small("bert", tmp_path / "model")
    policy = Policy.read(policy_with(tmp_path, office, {"own": model}, **limits))
    with serving(policy):
        (settings,) = tried
        plan = plans.plan(model="own", head=settings.head, max_length=settings.max_length)
        policy.limits("letters", office.ledger.id).check(plan, settings)


SLOW = """
import time
from dpbitfit.tasks.text_classification.settings import TextTask
TextTask.load = lambda *_: time.sleep(600)
from dpbitfit.cli import main
main()
"""


def test_a_guard_that_still_checks_its_models_can_be_ended(
    tmp_path: Path, office: Coordinator
) -> None:
    policy = policy_with(tmp_path, office, {"own": save_small("bert", tmp_path / "model")})
    log = tmp_path / "guard.log"
    with log.open("wb") as file:
        guard = warm.Process(SLOW, "guard", "serve", "--policy", str(policy), stderr=file)
    deadline = time.monotonic() + 120
    while "checking the training of own" not in log.read_text():
        assert guard.poll() is None, log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    guard.terminate()
    try:
        assert guard.wait(120) == 128 + signal.SIGTERM
    finally:
        guard.kill()
