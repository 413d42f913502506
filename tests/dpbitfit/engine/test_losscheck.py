"""Models that give losses of single records are trained by them; others are refused."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dpbitfit.engine.biases import UNREACHED, LeftOut, read_biases, select_biases
from dpbitfit.engine.directions import Directions
from dpbitfit.engine.losscheck import check_losses
from dpbitfit.engine.probing import CANONICAL_ROWS
from dpbitfit.engine.selfcheck import check_gradients
from dpbitfit.engine.zero_order import LossDifferences
from dpbitfit.errors import ModelError

from ...support.models import MODELS, build, losses
from .test_selfcheck import (
    ONE_LENGTH,
    DetachesALayer,
    FlattensRecordsAndTokens,
    MixesRecords,
    MixesWhereItOverflows,
    NormalisesOverBatch,
    RoundsByTheBatch,
    Shape,
    SharesALayerWithTheBatch,
    SwapsRecordAndSequence,
    UsesABiasFunctionally,
    square,
    zeroed,
)


class OwnsABias(Shape):
    """A bias that no layer adds."""

    def __init__(self) -> None:
        super().__init__()
        self.shift_bias = nn.Parameter(torch.zeros(4))

    def between(self, states: Tensor) -> Tensor:
        return (states + self.shift_bias).tanh()


class RoundsTheLastOfMany(Shape):
    """Otherwise than all others: a record of which the check has more than one copy."""

    def between(self, states: Tensor) -> Tensor:
        values = states.tanh()
        if len(values) > 8:
            values[-1] *= 1 + 1e-5
        return values


class Recurrent(nn.Module):
    """Hardly any of its biases has a gradient of one record."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.LSTM(5, 4, batch_first=True)
        self.last = nn.Linear(4, 3, bias=False)

    def forward(self, records: Tensor) -> Tensor:
        return self.last(self.layers(records)[0][:, -1])


class Rounds(Shape):
    """Its loss has no gradient at all."""

    def forward(self, records: Tensor) -> Tensor:
        return (super().forward(records) * 100).round()


def test_every_copy_of_a_record_is_compared() -> None:
    torch.manual_seed(0)
    model = RoundsTheLastOfMany()
    with pytest.raises(ModelError, match="its rounding changes"):
        check_losses(model, select_biases(model), square(model), ONE_LENGTH)


@pytest.mark.parametrize("name", MODELS)
def test_ordinary_models_pass_and_train_what_they_do_by_gradients(name: str) -> None:
    model = build(name)
    selected, before = select_biases(model), read_biases(model, select_biases(model))
    layout, canonical = check_losses(model, selected, losses(model, name), ONE_LENGTH)
    assert layout == selected
    assert canonical in CANONICAL_ROWS
    assert (read_biases(model, layout) == before).all()


@pytest.mark.parametrize(
    ("kind", "trains"),
    [
        (UsesABiasFunctionally, {"first.bias", "last.bias"}),
        (SwapsRecordAndSequence, {"first.bias", "last.bias"}),
        (FlattensRecordsAndTokens, {"first.bias", "last.bias"}),
        (SharesALayerWithTheBatch, {"first.bias", "last.bias"}),
        (OwnsABias, {"first.bias", "last.bias", "shift_bias"}),
        (Recurrent, {"layers.bias_ih_l0", "layers.bias_hh_l0"}),
        (Rounds, {"first.bias", "last.bias"}),
    ],
)
def test_biases_without_a_gradient_of_one_record_train(
    kind: Callable[[], nn.Module], trains: set[str]
) -> None:
    torch.manual_seed(0)
    model = kind()
    of, selected = square(model), select_biases(model)
    layout, canonical = check_losses(model, selected, of, ONE_LENGTH)
    assert set(layout.names) == trains
    assert check_losses(model, selected, of, ONE_LENGTH, private=False) == (layout, 1)
    directions = Directions(bytes(32))
    places = list(range(4)) * canonical
    with LossDifferences(model, layout, directions, 3, 1e-2) as differences:
        rows = differences.rows(lambda: of(places), len(places))
        turned = differences.rows(lambda: of(places[::-1]), len(places))
    assert rows[:4].any()
    assert torch.equal(rows[:4], rows[-4:])
    assert torch.equal(rows, turned.flip(0))
    by_gradients = set()
    with suppress(ModelError, RuntimeError):
        by_gradients = set(check_gradients(model, selected, of, ONE_LENGTH)[0].names)
    assert by_gradients < trains  # otherwise this tests nothing


def test_what_is_beneath_a_head_of_zeros_is_noticed_where_the_head_trains() -> None:
    torch.manual_seed(0)
    model = zeroed(Shape())
    selected = select_biases(model, ["last.weight"])
    assert check_losses(model, selected, square(model), ONE_LENGTH)[0] == selected


@pytest.mark.parametrize("kind", [MixesRecords, NormalisesOverBatch])
def test_a_model_that_mixes_records_is_refused(kind: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = kind()
    with pytest.raises(ModelError, match="a record's loss changes with the other records"):
        check_losses(model, select_biases(model), square(model), ONE_LENGTH)


def test_a_mean_loss_is_refused() -> None:
    model = build("bert")
    of = losses(model, "bert")
    for mean, says in (
        (lambda records: of(records) / len(records), "mixes records"),
        (lambda records: of(records).mean(), "one loss for each record"),
    ):
        with pytest.raises(ModelError, match=says):
            check_losses(model, select_biases(model), mean, ONE_LENGTH)


def test_the_size_from_which_losses_are_exact_is_found() -> None:
    torch.manual_seed(0)
    model = RoundsByTheBatch()
    model.exact_from = 5
    _, canonical = check_losses(model, select_biases(model), square(model), ONE_LENGTH)
    assert canonical == 8
    model.exact_from = 1000
    with pytest.raises(ModelError, match="last: on cpu its rounding changes with the batch"):
        check_losses(model, select_biases(model), square(model), ONE_LENGTH)


def test_layers_are_compared_too_as_a_loss_may_round_their_difference_away() -> None:
    """What a phase of the head takes from such a model would not be each record's own."""
    torch.manual_seed(0)
    model = RoundsByTheBatch()

    def rounded(records: Sequence[int]) -> Tensor:
        return (square(model)(records) * 16).round()

    with pytest.raises(ModelError, match="last: on cpu its rounding changes with the batch"):
        check_losses(model, select_biases(model), rounded, ONE_LENGTH)


def test_losses_are_compared_at_overflowing_biases_too() -> None:
    torch.manual_seed(0)
    model, data = MixesWhereItOverflows(), torch.randn(4, 4, 5)

    def of(records: Sequence[int]) -> Tensor:
        return model(data[list(records)]).sin().sum(dim=1)

    with pytest.raises(ModelError, match="on cpu its rounding changes with the batch"):
        check_losses(model, select_biases(model), of, ONE_LENGTH)


def test_a_bias_that_no_loss_notices_is_left_out() -> None:
    model = nn.ModuleDict({"used": nn.Linear(5, 3), "unused": nn.Linear(5, 3)})
    data = torch.randn(4, 5)

    def of(records: Sequence[int]) -> Tensor:
        return model["used"](data[list(records)]).pow(2).sum(dim=1)

    layout, _ = check_losses(model, select_biases(model), of, ONE_LENGTH)
    assert layout.names == ("used.bias",)
    assert layout.left_out == (LeftOut("unused.bias", 3, UNREACHED),)
    with pytest.raises(ModelError, match="no record reaches it"):
        check_losses(model, layout, lambda records: torch.ones(len(records)), ONE_LENGTH)


def test_a_detached_layer_trains_where_its_loss_notices_it() -> None:
    torch.manual_seed(0)
    model = DetachesALayer()
    layout, _ = check_losses(model, select_biases(model), square(model), ONE_LENGTH)
    assert layout.names == ("first.bias", "last.bias")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_biases_in_few_bits_are_refused_as_small_steps_vanish(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(5, 3)).to(dtype)
    data = torch.randn(4, 5, dtype=dtype)

    def of(model: nn.Module, records: Sequence[int]) -> Tensor:
        return functional.softplus(model(data[list(records)]).float()).sum(dim=1)

    with pytest.raises(ModelError, match=r"0\.bias is in torch\..*float16.*float32"):
        check_losses(model, select_biases(model), partial(of, model), ONE_LENGTH)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_damaged_weights_and_losses_are_refused(value: float) -> None:
    model = build("bert")
    of = losses(model, "bert")
    with pytest.raises(ModelError, match="a loss is not finite"):
        check_losses(model, select_biases(model), lambda chosen: of(chosen) * value, ONE_LENGTH)
    with torch.no_grad():
        next(model.parameters())[3:].fill_(value)
    with pytest.raises(ModelError, match="not finite"):
        check_losses(model, select_biases(model), of, ONE_LENGTH)
