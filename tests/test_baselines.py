"""What the benchmark compares plans with: exact rows, the same accounting, in no plan."""

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from dpbitfit.engine.biases import read_biases, write_biases
from dpbitfit.engine.clipping import AutomaticClipping
from dpbitfit.engine.linear_head import GRID, LinearHead, on_grid, outer_sum, residuals
from dpbitfit.engine.noise import DiscreteGaussianNoise
from dpbitfit.engine.optimizers import OptimizerState, Sgd
from dpbitfit.engine.training import train_round
from dpbitfit.errors import InputError, ProtocolError
from dpbitfit.phases import BiasPhase, ClassSums, HeadDescent, Phase
from dpbitfit.plan import Plan
from dpbitfit.schema import canonical

from .benchmarks.baselines import METHODS, NoClipping, WeightGradients, full, lora, without_privacy
from .support.models import RECORDS, build, losses
from .support.plans import plan

NOISE = DiscreteGaussianNoise(multiplier=1.0)
PHASES: tuple[Phase, ...] = (
    ClassSums(noise=NOISE),
    HeadDescent(noise=NOISE),
    BiasPhase(noise=NOISE, clipping=AutomaticClipping()),
)


def task_of(train: Callable[[Any], dict[str, Any]]) -> tuple[Any, BiasPhase]:
    """A tiny model of which ``train`` has chosen what trains, away from where that starts."""
    task = SimpleNamespace(model=build("bert"))
    phase = PHASES[2].model_copy(update=train(task))
    torch.manual_seed(1)
    for name in task.layout.names:
        parameter = task.model.get_parameter(name)
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return task, phase


@pytest.mark.parametrize("train", [lora, full])
def test_rows_are_those_of_each_record_alone(train: Callable[[Any], dict[str, Any]]) -> None:
    task, phase = task_of(train)
    loss = losses(task.model, "bert")
    with phase.estimator.attach(task.model, task.layout) as estimator:
        rows = estimator.rows(lambda: loss(range(RECORDS)), RECORDS)
    parameters = [task.model.get_parameter(name).requires_grad_(True) for name in task.layout.names]
    for record, row in enumerate(rows):
        alone = torch.autograd.grad(loss([record]).sum(), parameters)
        wanted = torch.cat([gradient.reshape(-1) for gradient in alone])
        assert (row - wanted).norm() < 1e-5 * wanted.norm()
        for name, _, place in task.layout.slices():
            if not name.endswith("key.bias"):  # of which softmax takes no notice
                assert row[place].any(), name


def test_what_trains_is_all_but_embeddings_or_low_rank_factors() -> None:
    task, _ = task_of(full)
    frozen = {name for name, _ in task.model.named_parameters()} - {*task.layout.names}
    assert frozen == {
        f"bert.embeddings.{kind}_embeddings.weight" for kind in ("word", "position", "token_type")
    }
    task, _ = task_of(lora)
    assert {name.split(".")[-2] for name in task.layout.names} == {"down", "up"}
    assert {name.split(".")[-3] for name in task.layout.names} == {"query", "value"}
    assert len(task.layout.names) == 2 * 2 * 2  # of two layers


def test_an_added_factor_changes_nothing_before_it_trains() -> None:
    model = build("bert")
    before = losses(model, "bert")(range(RECORDS)).detach()
    lora(SimpleNamespace(model=model))
    assert torch.equal(losses(model, "bert")(range(RECORDS)), before)


@pytest.mark.parametrize("train", [lora, full])
def test_other_weights_are_sampled_clipped_noised_and_accounted_alike(
    train: Callable[[Any], dict[str, Any]],
) -> None:
    changes = train(SimpleNamespace(model=build("bert")))
    method = next(method for method in METHODS.values() if method.train is train)
    changed = method.phases_of(PHASES, changes)
    assert changed[:2] == PHASES[:2]
    same = {"kind", "rounds", "steps_per_round", "sampling_rate", "clipping", "noise", "trains"}
    assert changed[2].model_dump(include=same) == PHASES[2].model_dump(include=same)
    assert [phase.counts for phase in changed] == [phase.counts for phase in PHASES]


class Records:
    """All records, each a unit of its own."""

    lengths = np.ones(RECORDS, np.int64)
    canonical_rows = 1
    units = tuple(np.array([record]) for record in range(RECORDS))

    def losses(self, model: Any, records: Any) -> Any:
        return losses(model, "bert")(records)


def test_without_privacy_a_step_is_that_of_the_plain_mean_gradient() -> None:
    task, whole = task_of(full)
    own = {
        "rounds": 1,
        "steps_per_round": 1,
        "sampling_rate": 1.0,
        "optimizer": Sgd(learning_rate=1.0),
    }
    phase = without_privacy(whole.model_copy(update=own))
    start = read_biases(task.model, task.layout)
    change, _ = train_round(
        task.model, task.layout, Records(), phase, RECORDS, start, OptimizerState()
    )
    write_biases(task.model, task.layout, start)
    parameters = [task.model.get_parameter(name).requires_grad_(True) for name in task.layout.names]
    mean = torch.autograd.grad(losses(task.model, "bert")(range(RECORDS)).mean(), parameters)
    wanted = -torch.cat([gradient.reshape(-1) for gradient in mean]).numpy()
    assert np.linalg.norm(change - wanted) < 1e-4 * np.linalg.norm(wanted)


@pytest.mark.parametrize("phase", PHASES[:2], ids=lambda phase: phase.kind)
def test_without_privacy_a_sum_of_the_head_is_released_as_it_is(phase: Any) -> None:
    plain = without_privacy(phase)
    features, classes = on_grid(np.eye(3, 8, dtype=np.float32)), np.array([0, 1, 1])
    head = LinearHead(slice(0, 16), None, classes=2, width=8, scale=20.0)
    wrong = np.zeros(16, np.float32)
    wrong[[8, 1, 2]] = 1.0  # each record's weight is that of the other class
    coefficients = residuals(head, wrong, features, classes)
    units = [np.array([record]) for record in range(3)]
    total = outer_sum(coefficients, features, units, plain.norm)
    assert plain.source().release(total) == pytest.approx(total * GRID)
    if isinstance(plain, HeadDescent):  # nothing is clipped
        assert np.linalg.norm(total * GRID) == pytest.approx(np.sqrt(6), rel=1e-3)


@pytest.mark.parametrize(
    ("phase", "field"),
    [
        *((without_privacy(phase), "noise.kind") for phase in PHASES),
        (PHASES[2].model_copy(update={"clipping": NoClipping()}), "clipping.function"),
        (PHASES[2].model_copy(update={"estimator": WeightGradients()}), "estimator.kind"),
    ],
    ids=["class-sums", "head", "biases", "clipping", "full"],
)
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_no_plan_that_a_guard_reads_can_ask_for_it(phase: Phase, field: str) -> None:
    data = plan().model_copy(update={"phases": (phase,)}).encode()
    with pytest.raises((ProtocolError, InputError), match=f"phases.{field}: must be"):
        Plan.decode(data)


@pytest.mark.parametrize("kind", ["none", "discrete-gaussian"])
def test_a_plan_without_noise_is_refused(kind: str) -> None:
    tree = json.loads(plan().encode())
    tree["phases"][0]["noise"] = {"kind": kind, "multiplier": 0.0}
    with pytest.raises((ProtocolError, InputError), match="noise"):
        Plan.decode(canonical(tree))
