"""Both sides in one process: two guards behind their policies train and measure for a strategy."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dpbitfit_client.guard.guard import Guard
from dpbitfit_client.message import Refused
from dpbitfit_client.policy.policy import Policy
from dpbitfit_server.strategy import PrivateStrategy
from flwr.app import Message, RecordDict
from flwr.serverapp.strategy import FedAvg

from dpbitfit.accounting.mechanism import Mechanism
from dpbitfit.data.labels import read_labels
from dpbitfit.engine.biases import read_biases
from dpbitfit.ledger import AccountName, Ledger
from dpbitfit.plan import Plan
from dpbitfit.protocol.envelope import Envelope
from dpbitfit.protocol.flower import pack, to_arrays, unpack
from dpbitfit.tasks.models import model_digest

from ..support import plans
from ..support.grids import LocalGrid
from ..support.shallow import narrow_minilm
from ..support.tasks import load_text

POLICY = """\
[site]
name = "{name}"
ledger = "{folder}/{name}.sqlite"
socket = "{folder}/{name}.sock"
group = "nogroup"
[coordinators.office]
public-key = "{key}"
[models.minilm]
path = "{model}"
digest = "{digest}"
[datasets.messages]
path = "{folder}/train.csv"
labels = "{labels}"
declared-size = 100
epsilon = 8.0
delta = 1e-5
[datasets.messages.coordinators.office]
min-noise-multiplier = 0.8
max-sampling-rate = 0.5
max-steps-per-round = 5
max-rounds = 20
models = ["minilm"]
[datasets.messages.evaluation]
path = "{folder}/kept.csv"
declared-size = 20
epsilon = {evaluation_epsilon}
delta = 1e-5
[datasets.messages.evaluation.metrics.accuracy]
noise-multiplier = 5.0
[datasets.messages.evaluation.metrics.loss]
noise-multiplier = 10.0
"""
PLAN = plans.plan(
    layout_digest="",
    model_digest="",
    noise_multiplier=2.0,
    sampling_rate=0.2,
    rounds=2,
    steps_per_round=1,
    max_length=24,
    metrics="accuracy,loss",
    evaluations=1,
)


@pytest.fixture
def coordinator(tmp_path: Path) -> Ledger:
    return Ledger(str(tmp_path / "coordinator.sqlite"), create=True)


@pytest.fixture
def labels(corpus: Path, tmp_path: Path) -> Path:
    with corpus.open() as file:
        header, *rows = csv.reader(file)
    for name, part in (("train", rows[:100]), ("kept", rows[100:])):
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([header, *part])
    return corpus.with_suffix(".labels.txt")


def guard(name: str, coordinator: Ledger, labels: Path, epsilon: float = 4.0) -> Guard:
    folder = Path(str(coordinator.database)).parent
    model = narrow_minilm()
    values = {"name": name, "folder": folder, "key": coordinator.id, "model": model}
    values["digest"] = model_digest(Path(model))
    text = POLICY.format(**values, labels=labels, evaluation_epsilon=epsilon)
    file = folder / f"{name}.toml"
    file.write_text(text)
    file.chmod(0o600)
    policy = Policy.read(file)
    Ledger(policy.site.ledger, create=True).database.close()
    return Guard(policy)


def node(site: Guard) -> Callable[[Message], RecordDict]:
    calls = {"query": site.describe, "train": site.train, "evaluate": site.evaluate}

    def answer(message: Message) -> RecordDict:
        try:
            return pack(calls[message.metadata.message_type](unpack(message.content)))
        except Refused as refused:
            return pack(Envelope(refused.statement))

    return answer


def strategy(
    coordinator: Ledger, labels: Path, folder: Path, plan: Plan = PLAN
) -> tuple[PrivateStrategy, np.ndarray]:
    task = load_text(narrow_minilm(), read_labels(str(labels)), "labels", max_length=24)
    plan = plans.plan(plan, layout_digest=task.layout.digest, model_digest=task.digest)
    made = PrivateStrategy(FedAvg(), plan, task.layout.size, 8.0, folder, coordinator)
    return made, read_biases(task.model, task.layout)


def test_sites_measure_what_their_policies_list_and_both_ledgers_hold_it(
    coordinator: Ledger, labels: Path, tmp_path: Path
) -> None:
    guards = [guard(name, coordinator, labels) for name in ("north", "south")]
    run, start = strategy(coordinator, labels, tmp_path / "run")
    grid = LocalGrid({number: node(each) for number, each in enumerate(guards)})
    run.start(grid, to_arrays(start))
    assert run.stopped == ""
    assert not run.registry.refused
    assert [line["replies"] for line in run.history[1:]] == [2, 2]
    assert [set(line.get("site_metrics", {})) for line in run.history] == [
        set(),
        set(),
        {"accuracy", "loss"},  # one evaluation, at the end
    ]
    assert 0 <= run.history[-1]["site_metrics"]["accuracy"] <= 1
    charged = {Mechanism(5.0, 1.0): 1, Mechanism(10.0, 1.0): 1}
    for each in guards:
        name = AccountName(each.policy.site.name, "messages:evaluation", "record")
        for ledger in (each.ledger, coordinator):
            account = ledger.account(name)
            assert account.budget == 4.0
            held = ledger.allotments([account.id])[account.id]
            assert {mechanism: part.committed for (_, mechanism), part in held.items()} == charged
            ledger.verify(account)


def test_a_site_without_budget_for_it_trains_and_does_not_measure(
    coordinator: Ledger, labels: Path, tmp_path: Path
) -> None:
    guards = [guard("north", coordinator, labels), guard("south", coordinator, labels, 0.1)]
    run, start = strategy(coordinator, labels, tmp_path / "run")
    grid = LocalGrid({number: node(each) for number, each in enumerate(guards)})
    run.start(grid, to_arrays(start))
    assert not run.registry.refused
    assert [line["replies"] for line in run.history[1:]] == [2, 2]
    assert set(run.history[-1]["site_metrics"]) == {"accuracy", "loss"}
    assert [len(each.ledger.reservations(state="committed")) for each in guards] == [3, 2]
