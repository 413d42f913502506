"""A site's own model and loss, trained privately through the plug-in.

    python examples/custom_task.py

A hospital classifies vital signs with its own small network. What it needs is the class
``VitalSigns`` and its name in the policy; a coordinator can ask for that name, and cannot
send code. ``main`` runs a real guard behind its socket, Flower's client app as its relay,
and our strategy as the coordinator, for a few rounds on data that it makes.
"""

import grp
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from dpbitfit_client.app import app as client_app
from dpbitfit_client.guard.service import serving
from dpbitfit_client.policy.policy import Policy
from dpbitfit_server.strategy import PrivateStrategy
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from dpbitfit.data.columns import Kind
from dpbitfit.data.tables import Table
from dpbitfit.engine.biases import freeze, read_biases, select_biases, write_biases
from dpbitfit.engine.clipping import AutomaticClipping
from dpbitfit.engine.noise import DiscreteGaussianNoise
from dpbitfit.engine.optimizers import Adam
from dpbitfit.ledger import Ledger
from dpbitfit.phases import BiasPhase
from dpbitfit.plan import ModelIdentity, Plan, TaskChoice
from dpbitfit.protocol import flower
from dpbitfit.tasks.attach import attach
from dpbitfit.tasks.base import Metric, Progress, TaskSettings
from dpbitfit.tasks.evaluation import outputs
from dpbitfit.tasks.models import model_digest

LABELS = ("well", "ill")
FEATURES = ("pulse", "temperature", "pressure")
TASK = "vital-signs"


class VitalSettings(TaskSettings):
    """Public settings of the task, part of every plan."""

    smoothing: float = Field(default=0.05, ge=0, le=0.5, description="Label smoothing of the loss.")


class VitalRecords:
    """The records as the training loop sees them: all of one length."""

    def __init__(self, task: "VitalSigns", table: Table) -> None:
        self._task = task
        self.features = torch.tensor([table.columns[name] for name in FEATURES]).float().T
        self.labels = torch.tensor(table.columns["label"])
        self.lengths = np.ones(len(table), dtype=np.int64)
        self.units = table.unit_records()

    @property
    def canonical_rows(self) -> int:
        return self._task.canonical_rows

    def losses(self, model: nn.Module, records: Sequence[int]) -> Tensor:
        """Losses [B]: each a function of its own record, never a mean."""
        chosen, device = list(records), next(model.parameters()).device
        smoothing = self._task.settings.smoothing
        return functional.cross_entropy(
            model(self.features[chosen].to(device)),
            self.labels[chosen].to(device),
            reduction="none",
            label_smoothing=smoothing,
        )


class VitalSigns:
    """A small network over numbers; its biases and its last layer train."""

    Settings: ClassVar[type[TaskSettings]] = VitalSettings
    columns: ClassVar[Mapping[str, Kind]] = {
        **dict.fromkeys(FEATURES, Kind.NUMBER),
        "label": Kind.LABEL,
    }
    metrics: ClassVar[Mapping[str, Metric]] = {
        "accuracy": Metric(bound=1.0),
        "loss": Metric(bound=5.0, unit="nats", higher_is_better=False),
    }
    headline: ClassVar[str] = "accuracy"

    def __init__(self, model: nn.Module, settings: VitalSettings, labels: Sequence[str]) -> None:
        self.model, self.settings, self.labels = model, settings, tuple(labels)
        self.canonical_rows = 1
        self.layout = select_biases(model, train_also=("last.weight",))
        freeze(model)
        self.pretrained = read_biases(model, self.layout)
        shared = hashlib.sha256(json.dumps([self.labels, settings.model_dump()]).encode())
        for name, value in model.state_dict().items():
            shared.update(name.encode() + value.numpy().tobytes())
        self.digest = shared.hexdigest()

    @classmethod
    def load(cls, folder: str, settings: VitalSettings, labels: Sequence[str]) -> Self:
        model = network()
        model.load_state_dict(load_file(Path(folder, "model.safetensors")))
        return cls(model.eval(), settings, labels)

    def probes(self) -> VitalRecords:
        """Made-up records, on which the gradients are checked before a site's own are used."""
        return VitalRecords(self, make_table(6, seed=0))

    def records(self, table: Table) -> VitalRecords:
        return VitalRecords(self, table)

    def evaluate(
        self, records: VitalRecords, progress: Progress | None = None
    ) -> dict[str, np.ndarray]:
        values = {name: np.empty(len(records.lengths)) for name in self.metrics}
        device = next(self.model.parameters()).device
        forward = lambda batch: self.model(records.features[batch].to(device))  # noqa: E731
        for batch, logits in outputs(self.model, records, forward, progress):
            labels = records.labels[batch]
            values["accuracy"][batch] = logits.argmax(dim=1) == labels
            values["loss"][batch] = functional.cross_entropy(logits, labels, reduction="none")
        return values

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.model.state_dict(), folder / "model.safetensors")

    def save_adapter(self, folder: Path) -> None:
        self.save(folder)  # hardly anything of it does not train


def network() -> nn.Sequential:
    layers = {"first": nn.Linear(len(FEATURES), 16), "tanh": nn.Tanh(), "last": nn.Linear(16, 2)}
    model = nn.Sequential()
    for name, layer in layers.items():
        model.add_module(name, layer)
    return model


def make_table(count: int, seed: int) -> Table:
    """Made-up patients: the ill have a higher pulse and temperature."""
    generator = np.random.default_rng(seed)
    ill = np.arange(count) % 2
    features = generator.normal(size=(count, len(FEATURES))) + np.outer(ill, (1.5, 1.5, 0.0))
    columns = {name: features[:, place].tolist() for place, name in enumerate(FEATURES)}
    return Table({**columns, "label": ill.tolist()})


POLICY = """
[site]
name = "hospital-1"
ledger = "{folder}/site.sqlite"
socket = "{folder}/guard.sock"
group = "{group}"

[coordinators.office]
public-key = "{key}"

[models.network]
path = "{folder}/model"
digest = "{digest}"

# What the name stands for at this site: a coordinator can ask for it, and send no code.
[tasks]
vital-signs = "{module}:VitalSigns"

[datasets.patients]
task = "vital-signs"
path = "{folder}/patients.jsonl"
labels = "well,ill"
declared-size = 400
epsilon = 8.0
delta = 1e-5

[datasets.patients.coordinators.office]
epsilon = 8.0
min-noise-multiplier = 1.0
max-sampling-rate = 0.2
max-steps-per-round = 10
max-rounds = 10
models = ["network"]
"""


class OneSite:
    """What our strategy needs of Flower's grid: one node, in this process, with a guard."""

    def __init__(self, socket: str) -> None:
        # What Flower sets in its own processes.
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
        self.replies: list[Message] = []
        self.context = Context(1, 7, {"guard": socket}, RecordDict(), {"round-timeout": 600.0})

    def get_node_ids(self) -> list[int]:
        return [self.context.node_id]

    def get_nodes(self) -> list[Any]:
        return [SimpleNamespace(node_id=self.context.node_id, name="hospital-1")]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        pushed = list(messages)
        for message in pushed:
            message.metadata.__dict__["_message_id"] = message.object_id  # as a SuperLink does
            self.replies.append(client_app(message, self.context))
        return [message.object_id for message in pushed]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        ids = set(message_ids)
        pulled = [reply for reply in self.replies if reply.metadata.reply_to_message_id in ids]
        self.replies = [reply for reply in self.replies if reply not in pulled]
        return pulled


def prepare(folder: Path, coordinator: Ledger) -> Policy:
    """The hospital's folder: records, model, ledger, and the policy that names its task."""
    table = make_table(400, seed=1)
    rows = zip(*(table.columns[name] for name in FEATURES), table.columns["label"], strict=True)
    with (folder / "patients.jsonl").open("w") as file:
        for *features, label in rows:
            row = dict(zip(FEATURES, features, strict=True), label=LABELS[label])
            file.write(json.dumps(row) + "\n")
    torch.manual_seed(0)
    VitalSigns(network(), VitalSettings(), LABELS).save(folder / "model")
    Ledger(str(folder / "site.sqlite"), create=True).database.close()
    path = folder / "policy.toml"
    group = grp.getgrgid(os.getegid()).gr_name
    digest = model_digest(folder / "model")
    path.write_text(
        POLICY.format(
            folder=folder,
            key=coordinator.id,
            digest=digest,
            group=group,
            module=VitalSigns.__module__,
        )
    )
    path.chmod(0o600)
    return Policy.read(path)


def main(folder: Path, rounds: int = 3) -> list[dict[str, Any]]:
    """Train over the hospital's guard; returns the strategy's history."""
    coordinator = Ledger(str(folder / "coordinator.sqlite"), create=True)
    policy = prepare(folder, coordinator)
    # The coordinator has the published model as well, and public records to test it on.
    task = cast(VitalSigns, attach(VitalSigns, str(folder / "model"), VitalSettings(), LABELS))
    public = task.records(make_table(500, seed=2))

    def evaluate(_round: int, arrays: ArrayRecord) -> MetricRecord:
        write_biases(task.model, task.layout, flower.from_arrays(arrays, task.layout.size))
        values = task.evaluate(public)
        return MetricRecord({name: float(value.mean()) for name, value in values.items()})

    plan = Plan(
        dataset="patients",
        unit="record",
        delta=1e-5,
        model=ModelIdentity(name="network", digest=task.digest, layout=task.layout.digest),
        task=TaskChoice(name=TASK, settings=VitalSettings().model_dump()),
        phases=(
            BiasPhase(
                rounds=rounds,
                steps_per_round=10,
                sampling_rate=0.1,
                clipping=AutomaticClipping(norm=1.0),
                noise=DiscreteGaussianNoise(multiplier=1.0),
                optimizer=Adam(learning_rate=0.1),
            ),
        ),
    )
    strategy = PrivateStrategy(
        FedAvg(), plan, task.layout.size, policy.datasets["patients"].epsilon, folder, coordinator
    )
    with serving(policy):
        grid = cast(Grid, OneSite(str(policy.site.socket)))
        strategy.start(grid, flower.to_arrays(task.pretrained), evaluate_fn=evaluate)
    return strategy.history


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        for line in main(Path(scratch)):
            print(line["round"], line["metrics"], f"epsilon {line['guaranteed']:.2f}")
