"""Per-record gradients against torch.func, Opacus and one record at a time."""

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
from opacus import GradSampleModule
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from dpbitfit.engine.biases import BiasLayout, select_biases
from dpbitfit.engine.gradients import PerRecordGradients
from dpbitfit.errors import ModelError

from ...support.models import LABELS, MODELS, RECORDS, bert, build, inputs, losses

Losses = Callable[[Sequence[int]], Tensor]


def rows_of(model: nn.Module, layout: BiasLayout, of: Losses, records: Sequence[int]) -> Tensor:
    with PerRecordGradients(model, layout) as gradients:
        return gradients.rows(lambda: of(records), len(records))


def alone(model: nn.Module, layout: BiasLayout, of: Losses) -> Tensor:
    """The oracle that cannot mix records: ordinary autograd on one record at a time."""
    parameters = [model.get_parameter(name).requires_grad_(True) for name in layout.names]
    rows = [
        torch.cat([g.reshape(-1) for g in torch.autograd.grad(of([i]).sum(), parameters)])
        for i in range(RECORDS)
    ]
    return torch.stack(rows)


def assert_equal(result: Tensor, wanted: Tensor, tolerance: float = 1e-5) -> None:
    assert wanted.norm(dim=1).min() > 0
    assert ((result - wanted).norm(dim=1) / wanted.norm(dim=1)).max() < tolerance


@pytest.mark.parametrize("name", MODELS)
def test_rows_equal_torch_func(name: str) -> None:
    model = build(name)
    layout = select_biases(model)
    trained = {key: model.get_parameter(key).detach() for key in layout.names}
    data = inputs(name)

    def loss(parameters: dict[str, Tensor], record: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(model, parameters, (record.unsqueeze(0),)).logits
        return functional.cross_entropy(logits, label.unsqueeze(0))

    per_record = vmap(grad(loss), in_dims=(None, 0, 0))(trained, data, LABELS)
    wanted = torch.cat([per_record[key].reshape(RECORDS, -1) for key in layout.names], dim=1)
    result = rows_of(model, layout, losses(model, name), range(RECORDS))
    assert_equal(result, wanted)


@pytest.mark.parametrize("name", MODELS)
def test_rows_equal_opacus(name: str) -> None:
    model = build(name)
    layout = select_biases(model)
    theirs = copy.deepcopy(model).train()
    for module in theirs.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for key, parameter in theirs.named_parameters():
        parameter.requires_grad_(key in layout.names)
    wrapped = GradSampleModule(theirs, strict=False)
    losses(wrapped, name)(range(RECORDS)).mean().backward()
    samples = dict(wrapped.named_parameters())
    wanted = torch.cat(
        [samples[f"_module.{key}"].grad_sample.reshape(RECORDS, -1) for key in layout.names], dim=1
    )
    assert_equal(rows_of(model, layout, losses(model, name), range(RECORDS)), wanted)


@pytest.mark.parametrize("name", MODELS)
def test_a_row_does_not_depend_on_its_company(name: str) -> None:
    model = build(name)
    layout = select_biases(model)
    of = losses(model, name)
    whole = rows_of(model, layout, of, range(RECORDS))
    for cut in ([[0], [1, 2, 3, 4, 5]], [[0, 1, 2], [3, 4, 5]]):
        parts = torch.cat([rows_of(model, layout, of, part) for part in cut])
        assert_equal(parts, whole)


def test_padding_changes_nothing() -> None:
    model = build("bert")
    layout = select_biases(model)
    data = inputs("bert")

    def padded(tokens: int) -> Losses:
        def of(records: Sequence[int]) -> Tensor:
            chosen = data[list(records)]
            ids = functional.pad(chosen, (0, tokens - chosen.shape[1]))
            mask = functional.pad(torch.ones_like(chosen), (0, tokens - chosen.shape[1]))
            logits = model(ids, attention_mask=mask).logits
            return functional.cross_entropy(logits, LABELS[list(records)], reduction="none")

        return of

    short = rows_of(model, layout, padded(7), range(RECORDS))
    assert_equal(rows_of(model, layout, padded(40), range(RECORDS)), short)


def test_gradient_checkpointing_changes_nothing() -> None:
    model = build("bert")
    layout = select_biases(model)
    of = losses(model, "bert")
    plain = rows_of(model, layout, of, range(RECORDS))
    model.activation_checkpointing_enable({"use_reentrant": False})
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    assert_equal(rows_of(model, layout, of, range(RECORDS)), plain)


class Reused(nn.Module):
    """One layer used three times, in-place activations, and a bias on two modules."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(2, 4, 3)
        self.norm = nn.GroupNorm(2, 4)
        self.layer = nn.Linear(4, 4)
        self.last = nn.Linear(4, 3)
        self.twin = nn.Linear(4, 3)
        self.twin.bias = self.last.bias

    def forward(self, records: Tensor) -> Tensor:
        states = self.norm(self.first(records))  # [B, 4, T]
        states += 0.1
        states = functional.relu(states, inplace=True).transpose(1, 2)
        for _ in range(3):
            states = functional.relu(self.layer(states))
        return self.last(states.mean(dim=1)) + self.twin(states.amax(dim=1))


def test_reused_layers_shared_biases_and_in_place_operations() -> None:
    torch.manual_seed(0)
    model = Reused()
    layout = select_biases(model)
    assert "twin.bias" not in layout.names
    data = torch.randn(RECORDS, 2, 9)

    def of(records: Sequence[int]) -> Tensor:
        logits = model(data[list(records)])
        return functional.cross_entropy(logits, LABELS[list(records)], reduction="none")

    wanted = alone(model, layout, of)
    assert_equal(rows_of(model, layout, of, range(RECORDS)), wanted)


def test_layers_whose_features_come_second() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.ConvTranspose1d(2, 4, 3), nn.InstanceNorm1d(4, affine=True), nn.Tanh()),
        *(nn.AdaptiveAvgPool1d(2), nn.Flatten(), nn.Linear(8, 3)),
    )
    layout = select_biases(model)
    assert layout.names == ("0.bias", "1.bias", "5.bias")
    data = torch.randn(RECORDS, 2, 9)

    def of(records: Sequence[int]) -> Tensor:
        logits = model(data[list(records)])
        return functional.cross_entropy(logits, LABELS[list(records)], reduction="none")

    wanted = alone(model, layout, of)
    assert_equal(rows_of(model, layout, of, range(RECORDS)), wanted)


def test_a_trained_head_has_exact_rows() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    layout = select_biases(model, train_also=["2.weight"])
    assert layout.names == ("0.bias", "2.bias", "2.weight")
    data = torch.randn(RECORDS, 7, 5)  # the head sees a sequence too

    def of(records: Sequence[int]) -> Tensor:
        logits = model(data[list(records)]).mean(dim=1)
        return functional.cross_entropy(logits, LABELS[list(records)], reduction="none")

    wanted = alone(model, layout, of)
    assert_equal(rows_of(model, layout, of, range(RECORDS)), wanted)


def test_nothing_is_left_in_grad_and_everything_is_frozen() -> None:
    model = build("bert")
    rows_of(model, select_biases(model), losses(model, "bert"), range(RECORDS))
    for parameter in model.parameters():
        assert parameter.grad is None
        assert not parameter.requires_grad


def test_a_row_that_is_not_finite_is_zeroed_alone() -> None:
    model = build("bert")
    layout = select_biases(model)
    of = losses(model, "bert")
    clean = rows_of(model, layout, of, range(RECORDS))
    weights = torch.ones(RECORDS)
    weights[2] = torch.inf
    result = rows_of(model, layout, lambda records: of(records) * weights, range(RECORDS))
    assert not result[2].any()
    kept = [0, 1, 3, 4, 5]
    assert_equal(result[kept], clean[kept])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_reduced_loss_is_refused(reduction: str) -> None:
    model = build("bert")

    def reduced(_: Sequence[int]) -> Tensor:
        return functional.cross_entropy(model(inputs("bert")).logits, LABELS, reduction=reduction)

    with pytest.raises(ModelError, match="one loss for each record"):
        rows_of(model, select_biases(model), reduced, range(RECORDS))


def test_outputs_that_are_not_batch_first_are_refused() -> None:
    model = nn.Sequential(nn.Linear(5, 4))
    data = torch.randn(7, RECORDS, 5)  # the sequence comes first

    def sequence_first(_: Sequence[int]) -> Tensor:
        return model(data).pow(2).sum(dim=(0, 2))

    with pytest.raises(ModelError, match="does not begin with the record"):
        rows_of(model, select_biases(model), sequence_first, range(RECORDS))


def test_dropout_differs_between_records_but_rows_stay_exact() -> None:
    model = bert(hidden_dropout_prob=0.5).train()
    layout = select_biases(model)
    of = losses(model, "bert")
    torch.manual_seed(3)
    result = rows_of(model, layout, of, range(RECORDS))
    parameters = [model.get_parameter(name).requires_grad_(True) for name in layout.names]
    torch.manual_seed(3)
    summed = torch.autograd.grad(of(range(RECORDS)).sum(), parameters)
    wanted = torch.cat([g.reshape(-1) for g in summed])
    assert (result.sum(dim=0) - wanted).norm() < 1e-5 * wanted.norm()
