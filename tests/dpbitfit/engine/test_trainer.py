"""The private trainer: what it sums, adds, divides by and counts, seen from its public face."""

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

import dpbitfit
from dpbitfit.engine import batches
from dpbitfit.engine.biases import read_biases, select_biases
from dpbitfit.engine.noise import DiscreteGaussian
from dpbitfit.engine.trainer import PrivateTrainer
from dpbitfit.errors import AccountingError, BudgetError, InputError, ModelError

RECORDS, PROBES = 60, range(60, 68)
NORM = 0.7

generator = torch.Generator().manual_seed(0)
FEATURES = torch.randn(68, 6, generator=generator)
LABELS = torch.randint(3, (68,), generator=generator)


def make_model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))


def loss(model: nn.Module, indices: list[int]) -> Tensor:
    return functional.cross_entropy(model(FEATURES[indices]), LABELS[indices], reduction="none")


def make_trainer(model: nn.Module, loss: Any = loss, **changes: Any) -> PrivateTrainer:
    settings = {
        **{"probes": PROBES, "declared_size": 50, "clipping": dpbitfit.AbadiClipping(norm=NORM)},
        **{"steps": 5, "sampling_rate": 0.5, "target_epsilon": 2.0},
    }
    return PrivateTrainer(model, loss, RECORDS, **{**settings, **changes})


@pytest.fixture
def no_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DiscreteGaussian, "release", lambda noise, total: total * noise.step)


def rows_by_torch_func(model: nn.Module) -> np.ndarray:
    """The gradient row of each private record [n, P], by another way than the engine's."""
    layout = select_biases(model)
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    biases = {name: parameters[name] for name in layout.names}

    def of_record(biases: dict[str, Tensor], features: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(model, {**parameters, **biases}, (features[None],))
        return functional.cross_entropy(logits, label[None])

    rows = vmap(grad(of_record), (None, 0, 0))(biases, FEATURES[:RECORDS], LABELS[:RECORDS])
    return torch.cat([rows[name].reshape(RECORDS, -1) for name in layout.names], 1).double().numpy()


def test_processes_that_train_together_share_each_sample(no_noise: None) -> None:
    """Here one stands for two, of which the other adds up the same: every second record, twice."""

    class Two(dpbitfit.Ranks):
        def share(self, units: np.ndarray) -> np.ndarray:
            return units[::2]

        def total(self, add_up: Any) -> np.ndarray:
            return 2 * add_up()

    model = make_model().eval()
    rows = rows_by_torch_func(model)[::2]
    clipped = rows * np.minimum(1, NORM / np.linalg.norm(rows, axis=1, keepdims=True))
    before = read_biases(model, select_biases(model))
    optimizer = dpbitfit.Sgd(learning_rate=2.0)
    make_trainer(model, sampling_rate=1.0, optimizer=optimizer, ranks=Two()).step()
    moved = read_biases(model, select_biases(model)) - before
    assert moved == pytest.approx(-2.0 * 2 * clipped.sum(axis=0) / 50, abs=1e-5)


@pytest.mark.parametrize("people", [RECORDS, 7])
def test_a_step_is_the_sum_of_clipped_gradients_over_the_public_divisor(
    people: int, no_noise: None
) -> None:
    """Fails with a sum that is not clipped by unit, and with a divisor made of the records."""
    model = make_model().eval()
    units = [f"person {record % people}" for record in range(RECORDS)]
    rows = rows_by_torch_func(model)
    summed = np.stack([rows[person::people].sum(axis=0) for person in range(people)])
    lengths = np.linalg.norm(summed, axis=1, keepdims=True)
    assert (lengths > NORM).any()
    clipped = summed * np.minimum(1, NORM / lengths)
    before = read_biases(model, select_biases(model))
    trainer = make_trainer(
        model, units=units, sampling_rate=1.0, optimizer=dpbitfit.Sgd(learning_rate=2.0)
    )
    trainer.step()
    moved = read_biases(model, select_biases(model)) - before
    assert moved == pytest.approx(-2.0 * clipped.sum(axis=0) / 50, abs=1e-5)


def test_the_noise_is_that_of_the_stated_multiplier() -> None:
    """Private records without a gradient leave the noise alone."""

    def silent(model: nn.Module, indices: list[int]) -> Tensor:
        public = torch.tensor(indices) >= RECORDS
        return loss(model, indices) * public

    model = make_model()
    layout = select_biases(model.eval())
    trainer = make_trainer(model, silent, optimizer=dpbitfit.Sgd(learning_rate=1.0), steps=30)
    biases = [read_biases(model, layout)]
    for _ in trainer:
        biases.append(read_biases(model, layout))
    rates = 1 - np.arange(30)[:, None] / 30  # linear decay to zero
    moves = np.diff(biases, axis=0) / rates
    wanted = trainer.noise_multiplier * NORM / (0.5 * 50)
    assert moves.std() == pytest.approx(wanted, rel=5 / (2 * moves.size) ** 0.5)


def test_epsilon_is_that_of_the_steps_taken() -> None:
    trainer = make_trainer(make_model(), delta=1e-6)
    mechanism = dpbitfit.Mechanism(trainer.noise_multiplier, 0.5)
    assert trainer.epsilon == 0
    seen = [(step, trainer.epsilon) for step in trainer]
    assert seen == [(n, dpbitfit.epsilon({mechanism: n}, 1e-6).epsilon) for n in range(1, 6)]
    assert 1.9 < trainer.epsilon == trainer.planned_epsilon <= 2.0
    assert trainer.noise_multiplier == dpbitfit.calibrate(2.0, 1e-6, 0.5, 5)
    with pytest.raises(BudgetError, match="all 5 steps"):
        trainer.step()
    trainer.run()
    assert trainer.steps_taken == 5


def test_a_step_that_fails_is_spent() -> None:
    broken = False

    def fails(model: nn.Module, indices: list[int]) -> Tensor:
        if broken:
            raise MemoryError
        return loss(model, indices)

    trainer = make_trainer(make_model(), fails, sampling_rate=1.0)
    broken = True
    with pytest.raises(MemoryError):
        trainer.step()
    assert trainer.steps_taken == 1
    assert trainer.epsilon > 0


def test_a_tensor_of_units_names_as_many_as_it_has_values() -> None:
    for units in (torch.arange(RECORDS) // 3, [*torch.arange(RECORDS) // 3]):
        trainer = make_trainer(make_model(), units=units)
        assert [unit.tolist() for unit in trainer._records.units[:2]] == [[0, 1, 2], [3, 4, 5]]
        assert len(trainer._records.units) == RECORDS // 3


def test_each_step_flips_a_coin_for_each_unit() -> None:
    """Fails with batches of a fixed size, and with one sample for all steps."""
    steps: list[set[int]] = []

    def watched(model: nn.Module, indices: list[int]) -> Tensor:
        if steps:
            steps[-1].update(indices)
        return loss(model, indices)

    trainer = make_trainer(make_model(), watched, steps=30)
    for _ in range(30):
        steps.append(set())
        trainer.step()
    drawn = np.array([[record in step for record in range(RECORDS)] for step in steps])
    assert len({len(step) for step in steps}) > 3
    for sampled in (drawn, drawn[1:] == drawn[:-1], drawn[:, 1:] == drawn[:, :-1]):
        assert sampled.mean() == pytest.approx(0.5, abs=5 * 0.5 / sampled.size**0.5)


def test_no_private_record_is_read_before_the_first_step() -> None:
    asked: set[int] = set()

    def watched(model: nn.Module, indices: list[int]) -> Tensor:
        asked.update(indices)
        return loss(model, indices)

    make_trainer(make_model(), watched)
    assert asked == set(PROBES)


def test_a_loss_that_mixes_records_is_refused() -> None:
    def mixed(model: nn.Module, indices: list[int]) -> Tensor:
        losses = loss(model, indices)
        return losses * losses.mean()

    with pytest.raises(ModelError, match="mixes records"):
        make_trainer(make_model(), mixed)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"probes": range(8)}, "probes must be indices of public records, from 60 on"),
        ({"probes": []}, "probes"),
        ({"probes": [*range(60, 68), 68.5]}, "probes must be whole numbers"),
        ({"probes": 60}, "probes must be whole numbers"),
        *(
            ({"declared_size": size}, "declared_size must be a whole number of at least 1, not")
            for size in (0, -3, 200.5, "200", np.nan, np.inf)
        ),
        ({"units": ["one person"]}, "units must name one unit for each of the 60 records"),
        ({"units": [*range(59), None]}, "a name is missing"),
        ({"units": [*range(59), float("nan")]}, "a name is missing"),
        ({"probes": np.arange(8)}, "probes must be indices"),
        ({"lengths": [0] * 68}, "must be 1 or more"),
        ({"micro_batch": 0}, "micro_batch must be a whole number of at least 1, not 0"),
        ({"lengths": [1] * RECORDS}, "lengths must name one length for each index"),
        ({"clipping": "none"}, "clipping must be AbadiClipping or .* AdaptiveClipping, not 'none'"),
        ({"clipping": 1.0}, "clipping must be AbadiClipping or AutomaticClipping or"),
        ({"optimizer": 1.0}, "optimizer must be Adam or Sgd, not 1.0"),
        ({"train_also": "3.weight"}, "train_also must be a list of names"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_trainer(make_model(), **changes)


@pytest.mark.parametrize("kind", [set, np.array, torch.tensor, iter])
def test_probes_come_in_any_collection(kind: Any) -> None:
    make_trainer(make_model(), probes=kind([*PROBES]))


def test_a_target_beyond_the_accountants_is_named_with_its_bounds() -> None:
    with pytest.raises(AccountingError, match=r"above 0 and at most 10,000, not 100000\.0"):
        make_trainer(make_model(), target_epsilon=1e5)


def test_a_loss_that_is_no_tensor_is_refused() -> None:
    with pytest.raises(ModelError, match="one loss for each record"):
        make_trainer(make_model(), lambda _model, indices: [1.0] * len(indices))


def test_a_model_with_few_biases_trains_what_is_named() -> None:
    """And without any name it is refused: nothing that trains would be left of it."""

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.reads, self.head = nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 3, bias=False)

        def forward(self, features: Tensor) -> Tensor:
            return self.head(self.reads(features[:, None])[0][:, -1])

    trainer = make_trainer(Reader(), train_also=["head.weight"])
    assert trainer.trained == ("head.weight",)
    trainer.step()
    with pytest.raises(ModelError, match="0 can be trained soundly"):
        make_trainer(Reader())


@pytest.mark.parametrize("micro_batch", [1, 6])
def test_no_more_records_are_computed_at_once_than_a_micro_batch_has(micro_batch: int) -> None:
    """But for the three that it takes to see whether a loss mixes them."""
    sizes: set[int] = set()

    def watched(model: nn.Module, indices: list[int]) -> Tensor:
        sizes.add(len(indices))
        return loss(model, indices)

    model = make_model()
    trainer = make_trainer(model, watched, micro_batch=micro_batch, sampling_rate=1.0)
    if trainer._records.canonical_rows == 1:  # as of products in MKL's strict mode
        assert max(sizes) == max(5, micro_batch)  # 5: so many tell what begins with the record
    sizes.clear()
    trainer.step()
    assert max(sizes) == max(micro_batch, trainer._records.canonical_rows)


def test_a_trainer_goes_on_from_its_pickle(no_noise: None) -> None:
    """Each step takes all units, so that both take the same ones."""
    trainer = make_trainer(make_model(), sampling_rate=1.0)
    trainer.step()
    later = pickle.loads(pickle.dumps(trainer))
    trainer.run()
    later.run()
    assert later.epsilon == trainer.epsilon
    before, after = (read_biases(each._model, each._layout) for each in (trainer, later))
    assert np.array_equal(before, after)


def test_records_of_several_lengths_never_share_a_batch() -> None:
    lengths = 1 + np.arange(68) % 4
    seen: set[frozenset[int]] = set()

    def watched(model: nn.Module, indices: list[int]) -> Tensor:
        seen.add(frozenset(lengths[indices].tolist()))
        return loss(model, indices)

    make_trainer(make_model(), watched, lengths=lengths.tolist(), sampling_rate=1.0).step()
    assert seen == {frozenset([length]) for length in range(1, 5)}


def test_where_shapes_are_few_each_length_needs_a_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "has_few_shapes", lambda _model: True)
    lengths = [4] * 67 + [8]
    make_trainer(make_model(), lengths=lengths)
    with pytest.raises(InputError, match="every length needs a probe"):
        make_trainer(make_model(), lengths=lengths[::-1])


def test_a_heads_weight_trains_too_and_nothing_else_moves() -> None:
    model = make_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = make_trainer(model, train_also=["3.weight"])
    trainer.run()
    moved = {name for name, value in model.state_dict().items() if not value.equal(before[name])}
    assert moved == {"0.bias", "3.bias", "3.weight"}
    assert {*trainer.trained} == moved
    assert not any(parameter.requires_grad for parameter in model.parameters())
