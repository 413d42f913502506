"""Models whose private gradients would be wrong are refused when they are attached."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dpbitfit.engine.biases import (
    BLOCKED,
    NOT_ITS_GRADIENT,
    NOT_PER_RECORD,
    UNREACHED,
    LeftOut,
    read_biases,
    select_biases,
)
from dpbitfit.engine.gradients import PerRecordGradients
from dpbitfit.engine.probing import CANONICAL_ROWS
from dpbitfit.engine.selfcheck import check_gradients
from dpbitfit.errors import ModelError

from ...support.models import MODELS, build, losses

ONE_LENGTH = np.ones(4, dtype=np.int64)  # four probes that are padded alike


@pytest.mark.parametrize("name", MODELS)
def test_ordinary_models_pass(name: str) -> None:
    model = build(name)
    selected = select_biases(model)
    layout, canonical = check_gradients(model, selected, losses(model, name), ONE_LENGTH)
    assert layout == selected
    assert canonical in CANONICAL_ROWS


class Shape(nn.Module):
    """Two layers, between which a subclass does something."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 4)
        self.last = nn.Linear(4, 3)

    def between(self, states: Tensor) -> Tensor:
        return states.tanh()

    def forward(self, records: Tensor) -> Tensor:
        return self.last(self.between(self.first(records))).mean(dim=1)


class MixesRecords(Shape):
    def between(self, states: Tensor) -> Tensor:
        return states - states.mean(dim=0, keepdim=True)


class NormalisesOverBatch(Shape):
    def between(self, states: Tensor) -> Tensor:
        return states / (1 + states.norm())


class UsesABiasFunctionally(Shape):
    def between(self, states: Tensor) -> Tensor:
        return states.tanh() + self.first.bias


class ChangesALinearOutputInPlace(Shape):
    def between(self, states: Tensor) -> Tensor:
        states += 0.1  # a view: autograd forgets the hook on it
        return states.tanh() * states


class DetachesALayer(Shape):
    def between(self, states: Tensor) -> Tensor:
        return states.detach().tanh()


class SwapsRecordAndSequence(Shape):
    """Square, so that no shape gives it away."""

    def between(self, states: Tensor) -> Tensor:
        return states.transpose(0, 1).tanh()

    def forward(self, records: Tensor) -> Tensor:
        states = self.between(self.first(records))  # [T, B, 4]
        return self.last(states).mean(dim=0)


class FlattensRecordsAndTokens(Shape):
    """Between the layers, so that the last one cannot tell the records apart."""

    def forward(self, records: Tensor) -> Tensor:
        states = self.first(records).tanh()
        return self.last(states.flatten(0, 1)).unflatten(0, states.shape[:2]).mean(dim=1)


class SharesALayerWithTheBatch(Shape):
    """The last layer is also used on what all records share."""

    def forward(self, records: Tensor) -> Tensor:
        shared = self.last(torch.ones(1, 4))
        return (self.last(self.first(records).tanh()) * shared).mean(dim=1)


class GivesTwoOutputs(nn.Module):
    """A layer of its own, whose bias is added as others' are."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.ones(4))

    def forward(self, states: Tensor) -> tuple[Tensor, None]:
        return states + self.bias, None


class HasALayerOfItsOwn(Shape):
    def __init__(self) -> None:
        super().__init__()
        self.own = GivesTwoOutputs()

    def between(self, states: Tensor) -> Tensor:
        return self.own(states)[0].tanh()


def square(model: nn.Module) -> Callable[[Sequence[int]], Tensor]:
    """Losses of four records of four tokens."""
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(4, 4, 5, generator=generator)
    labels = torch.tensor([0, 1, 2, 0])

    def losses_of(records: Sequence[int]) -> Tensor:
        logits = model(data[list(records)])
        return functional.cross_entropy(logits, labels[list(records)], reduction="none")

    return losses_of


@pytest.mark.parametrize("kind", [MixesRecords, NormalisesOverBatch])
def test_a_model_that_mixes_records_is_refused(kind: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = kind()
    with pytest.raises(ModelError, match="mixes records"):
        check_gradients(model, select_biases(model), square(model), ONE_LENGTH)


@pytest.mark.parametrize(
    ("kind", "left_out", "why"),
    [
        (HasALayerOfItsOwn, "", ""),
        (UsesABiasFunctionally, "first.bias", NOT_ITS_GRADIENT),
        (ChangesALinearOutputInPlace, "first.bias", NOT_ITS_GRADIENT),
        (DetachesALayer, "first.bias", UNREACHED),
        (SwapsRecordAndSequence, "last.bias", NOT_PER_RECORD),
        (FlattensRecordsAndTokens, "last.bias", NOT_PER_RECORD),
        (SharesALayerWithTheBatch, "last.bias", NOT_PER_RECORD),
    ],
)
def test_a_bias_that_would_be_wrong_is_left_out_and_the_others_are_right(
    kind: Callable[[], nn.Module], left_out: str, why: str
) -> None:
    torch.manual_seed(0)
    model = kind()
    losses_of, selected = square(model), select_biases(model)
    layout, canonical = check_gradients(model, selected, losses_of, ONE_LENGTH)
    assert {bias.name: bias.why for bias in layout.left_out} == ({left_out: why} if why else {})
    assert {*layout.names, left_out} >= set(selected.names)
    parameters = [model.get_parameter(name) for name in layout.names]
    with PerRecordGradients(model, layout) as gradients:
        rows = gradients.rows(lambda: losses_of(range(4)), 4)
    for parameter in parameters:
        parameter.requires_grad_(True)
    for record, row in enumerate(rows):
        alone = torch.autograd.grad(losses_of([record]).sum(), parameters)
        assert torch.allclose(row, torch.cat(alone), atol=1e-5)
    assert check_gradients(model, layout, losses_of, ONE_LENGTH) == (layout, canonical)
    assert check_gradients(model, selected, losses_of, ONE_LENGTH, private=False) == (layout, 1)


class UsesABiasBesideLargeValues(Shape):
    """Its head reads raw values too, whose weights have gradients of another magnitude."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(5, 3)
        with torch.no_grad():
            self.last.weight[:, 4] *= 1e-5

    def forward(self, records: Tensor) -> Tensor:
        states = self.first(records).tanh() + 0.1 * self.first.bias
        raw = 1e4 * records[..., :1]
        return self.last(torch.cat([states, raw], dim=-1)).mean(dim=1)


def test_a_wrong_gradient_is_seen_beside_one_that_is_much_larger() -> None:
    torch.manual_seed(0)
    model = UsesABiasBesideLargeValues()
    layout = select_biases(model, ["last.weight"])
    layout, _ = check_gradients(model, layout, square(model), ONE_LENGTH)
    assert [bias.name for bias in layout.left_out] == ["first.bias"]
    assert layout.left_out[0].why == NOT_ITS_GRADIENT


def zeroed(model: Shape) -> Shape:
    """With a head of zeros, as one usually begins; no record reaches beyond it yet."""
    nn.init.zeros_(model.last.weight)
    nn.init.zeros_(model.last.bias)
    return model


def test_what_is_beneath_a_head_of_zeros_trains_where_the_head_does() -> None:
    torch.manual_seed(0)
    model = zeroed(Shape())
    selected = select_biases(model, ["last.weight"])
    assert check_gradients(model, selected, square(model), ONE_LENGTH)[0] == selected


def test_what_is_beneath_a_head_of_zeros_is_compared_too() -> None:
    torch.manual_seed(0)
    model = zeroed(UsesABiasFunctionally())
    selected = select_biases(model, ["last.weight"])
    layout, _ = check_gradients(model, selected, square(model), ONE_LENGTH)
    assert layout.left_out == (LeftOut("first.bias", 4, NOT_ITS_GRADIENT),)


class HasAnAdapter(Shape):
    """A product of two small weights beside the first layer, of which one is zero at first."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(5, 2, bias=False), nn.Linear(2, 4, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, records: Tensor) -> Tensor:
        states = self.first(records) + self.up(self.down(records))
        return self.last(states.tanh()).mean(dim=1)


def test_an_adapter_that_begins_at_zero_trains() -> None:
    torch.manual_seed(0)
    model = HasAnAdapter()
    selected = select_biases(model, ["down.weight", "up.weight"])
    assert check_gradients(model, selected, square(model), ONE_LENGTH)[0] == selected


def test_what_is_beneath_zeros_that_do_not_train_is_left_out() -> None:
    class HasAClosedGate(Shape):
        def between(self, states: Tensor) -> Tensor:
            return 0 * states

    torch.manual_seed(0)
    model = HasAClosedGate()
    layout, _ = check_gradients(model, select_biases(model), square(model), ONE_LENGTH)
    assert layout.left_out == (LeftOut("first.bias", 4, BLOCKED),)


def test_where_hardly_any_bias_is_left_above_zeros_the_model_is_refused() -> None:
    class Wide(Shape):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(5, 40), nn.Linear(40, 3)

    model = zeroed(Wide())
    says = r"of 43 bias values only 3 can be trained soundly; first\.bias: .*beneath zeros"
    with pytest.raises(ModelError, match=says):
        check_gradients(model, select_biases(model), square(model), ONE_LENGTH)


def test_where_hardly_any_bias_is_right_the_model_is_refused() -> None:
    class Wide(SwapsRecordAndSequence):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(4, 40)

    torch.manual_seed(0)
    model = Wide()
    says = r"of 44 bias values only 4 can be trained soundly; last\.bias: .*begin with the record"
    with pytest.raises(ModelError, match=says):
        check_gradients(model, select_biases(model), square(model), ONE_LENGTH)


def test_a_model_of_whose_biases_no_layer_adds_any_is_refused() -> None:
    model = nn.LSTM(4, 3, batch_first=True)
    data = torch.randn(4, 5, 4)
    says = r"of 24 bias values only 0 can be trained.* bias_ih_l0: no layer"
    with pytest.raises(ModelError, match=says):
        check_gradients(
            model,
            select_biases(model),
            lambda records: model(data[list(records)])[0].sum(dim=(1, 2)),
            ONE_LENGTH,
        )


def test_what_a_task_trains_beside_the_biases_is_never_left_out() -> None:
    torch.manual_seed(0)
    model = FlattensRecordsAndTokens()
    with pytest.raises(ModelError, match=r"last\.weight: .*begin with the record"):
        check_gradients(model, select_biases(model, ["last.weight"]), square(model), ONE_LENGTH)


@pytest.mark.parametrize("odd", range(4))
def test_every_probe_is_compared_with_autograd(odd: int) -> None:
    """Fails where only some rows are: a layer may go wrong for one kind of record alone."""

    class UsesABiasForOneRecord(Shape):
        def forward(self, records: Tensor) -> Tensor:
            states = self.first(records).tanh()
            marked = (records[:, :1, :1] > 10).to(states.dtype)
            return self.last(states + marked * self.first.bias).mean(dim=1)

    torch.manual_seed(0)
    model = UsesABiasForOneRecord()
    data = torch.randn(4, 4, 5)
    data[odd, 0, 0] = 11.0

    def of(records: Sequence[int]) -> Tensor:
        return model(data[list(records)]).pow(2).sum(dim=1)

    layout, _ = check_gradients(model, select_biases(model), of, ONE_LENGTH)
    assert layout.names == ("last.bias",)


def test_a_mean_loss_spread_over_the_records_is_refused() -> None:
    model = build("bert")
    of = losses(model, "bert")

    def coupled(records: Sequence[int]) -> Tensor:
        return of(records) / len(records)  # what a model's own mean loss does

    with pytest.raises(ModelError, match="mixes records"):
        check_gradients(model, select_biases(model), coupled, ONE_LENGTH)


MIXING: dict[str, Callable[[Tensor], Tensor]] = {
    "less the batch's mean": lambda losses: losses - losses.mean(),
    "over the batch's largest": lambda losses: losses / losses.detach().max(),
    "the hardest": lambda losses: losses * (losses >= losses.median()),
    "what is nearly as hard as the hardest": lambda losses: losses * (losses > losses.max() / 5),
    "what is not much harder than the easiest": lambda losses: losses * (losses < losses.min() * 5),
}


@pytest.mark.parametrize("mix", MIXING)
@pytest.mark.parametrize("seed", range(2))
def test_a_loss_that_depends_on_the_batchs_other_losses_is_refused(mix: str, seed: int) -> None:
    """Of as many probes as a canonical micro-batch may have records."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3))
    data, labels = torch.randn(8, 5), torch.randint(3, (8,))

    def of(records: Sequence[int]) -> Tensor:
        logits, wanted = model(data[list(records)]), labels[list(records)]
        return MIXING[mix](functional.cross_entropy(logits, wanted, reduction="none"))

    with pytest.raises(ModelError, match="mixes records"):
        check_gradients(model, select_biases(model, ["2.weight"]), of, np.ones(8, np.int64))


def test_a_loss_between_records_is_said_to_mix_them() -> None:
    """With many rows it is not told from rounding."""
    torch.manual_seed(0)
    model = nn.ModuleList([nn.Linear(5, 8), nn.Linear(5, 8)])
    data = torch.randn(2, 8, 5)

    def of(records: Sequence[int]) -> Tensor:
        first, second = (
            layer(half[list(records)]) for layer, half in zip(model, data, strict=True)
        )
        pairs = torch.arange(len(records))
        return functional.cross_entropy(first @ second.T, pairs, reduction="none")

    with pytest.raises(ModelError, match="mixes records"):
        check_gradients(model, select_biases(model), of, np.ones(8, np.int64))


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_a_bias_in_half_precision_is_refused(kind: torch.dtype) -> None:
    model = Shape()
    model.first.bias.data = model.first.bias.to(kind)
    with pytest.raises(ModelError, match=r"first\.bias is in .*16, where small steps vanish"):
        check_gradients(model, select_biases(model), square(model), ONE_LENGTH)


def test_a_bias_that_no_record_reaches_is_left_out() -> None:
    model = nn.ModuleDict({"used": nn.Linear(5, 3), "unused": nn.Linear(5, 3)})
    data = torch.randn(4, 5)

    def of(records: Sequence[int]) -> Tensor:
        return model["used"](data[list(records)]).pow(2).sum(dim=1)

    layout, _ = check_gradients(model, select_biases(model), of, ONE_LENGTH)
    assert layout.names == ("used.bias",)
    assert layout.left_out == (LeftOut("unused.bias", 3, UNREACHED),)


def test_a_loss_that_no_bias_reaches_is_refused() -> None:
    model = nn.Linear(5, 3)
    with pytest.raises(ModelError, match="the loss does not depend on any trained bias"):
        check_gradients(
            model, select_biases(model), lambda records: torch.ones(len(records)), ONE_LENGTH
        )


class RoundsByTheBatch(Shape):
    """A layer whose sums depend on the batch by a rounding error, below a size or at any."""

    exact_from = 1000

    def between(self, states: Tensor) -> Tensor:
        if len(states) < self.exact_from:
            states = states * (1 + 1e-7 * len(states))
        return states.tanh()


def test_the_size_from_which_rows_are_exact_is_found() -> None:
    torch.manual_seed(0)
    model = RoundsByTheBatch()
    model.exact_from = 5
    _, canonical = check_gradients(model, select_biases(model), square(model), ONE_LENGTH)
    assert canonical == 8


class RoundsForFewRows(nn.LayerNorm):
    """Other values for up to ``few`` rows, as of some kernels of products; it has none itself."""

    few = 10

    def forward(self, records: Tensor) -> Tensor:
        return super().forward(records) * (1 + 1e-6 * (len(records) <= self.few))


def canonical_rows(few: int, tokens: int) -> int:
    """What the check finds for such a model with probes of ``tokens``."""
    model, data = RoundsForFewRows(5), torch.linspace(-1, 1, 15).view(3, 5) ** 2
    model.few = few

    def of(chosen: Sequence[int]) -> Tensor:
        return model(data[list(chosen)]).square().sum(dim=1)

    return check_gradients(model, select_biases(model), of, np.full(3, tokens))[1]


@pytest.mark.parametrize("tokens", [1, 20, 512])
def test_more_rows_than_a_head_has_ways_for_are_compared_at_every_length(tokens: int) -> None:
    assert canonical_rows(10, tokens) == 16


def test_many_rows_are_compared_with_few() -> None:
    assert canonical_rows(30, 8) == 32
    for few in (100, 500):  # the largest micro-batch has 512 records of eight tokens
        with pytest.raises(ModelError, match="its rounding changes with the batch"):
            canonical_rows(few, 8)


def test_a_model_that_is_exact_at_no_size_is_refused_with_the_layer_and_the_device() -> None:
    torch.manual_seed(0)
    model = RoundsByTheBatch()
    with pytest.raises(ModelError, match="last: on cpu its rounding changes with the batch"):
        check_gradients(model, select_biases(model), square(model), ONE_LENGTH)


class MixesWhereItOverflows(Shape):
    """Records mix once a logit is too large, which ordinary biases never make it."""

    def forward(self, records: Tensor) -> Tensor:
        logits = super().forward(records)
        return logits * (1 + 1e-6 * len(records)) if logits.abs().max() > 1e9 else logits


def test_rows_are_compared_at_overflowing_biases_too() -> None:
    torch.manual_seed(0)
    model = MixesWhereItOverflows()
    data = torch.randn(4, 4, 5)
    with pytest.raises(ModelError, match="on cpu its rounding changes with the batch"):
        check_gradients(
            model,
            select_biases(model),
            lambda records: model(data[list(records)]).sin().sum(dim=1),
            ONE_LENGTH,
        )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_damaged_weights_are_refused(value: float) -> None:
    model = build("bert")
    with torch.no_grad():
        next(model.parameters())[3:].fill_(value)
    with pytest.raises(ModelError, match="not finite"):
        check_gradients(model, select_biases(model), losses(model, "bert"), ONE_LENGTH)


def test_the_models_own_biases_are_back_after_the_check() -> None:
    model = build("bert")
    layout = select_biases(model)
    before = read_biases(model, layout)
    check_gradients(model, layout, losses(model, "bert"), ONE_LENGTH)
    assert (read_biases(model, layout) == before).all()
