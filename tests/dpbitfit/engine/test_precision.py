"""In bfloat16 a model computes nearly the same, biases and their gradients in float32."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import GPT2Config, GPT2Model

from dpbitfit.engine import precision
from dpbitfit.engine.biases import BiasLayout, select_biases
from dpbitfit.engine.gradients import PerRecordGradients
from dpbitfit.engine.precision import CPU_ROWS, use_bfloat16
from dpbitfit.errors import InputError, ModelError
from dpbitfit.tasks.attach import attach
from dpbitfit.tasks.registry import read_settings
from dpbitfit.tasks.text_classification.task import TextClassification

from ...support.backbones import backbone
from ...support.bfloat16 import units_for_bfloat16
from ..tasks.test_text_classification import LABELS, save

RECORDS, TOKENS = 70, 8  # more tokens than are multiplied at once


def computed(model: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Each record's loss [B] and gradient row [B, P], of public records."""
    ids = torch.randint(0, 20, (RECORDS, TOKENS), generator=torch.Generator().manual_seed(0))

    def losses() -> torch.Tensor:
        values: torch.Tensor = model(input_ids=ids)[0][..., :4].square().sum((1, 2))
        return values

    with PerRecordGradients(model, select_biases(model)) as gradients:
        return losses().detach(), gradients.rows(losses, RECORDS)


def gpt2() -> GPT2Model:
    """Its linear layers are no ``nn.Linear``."""
    torch.manual_seed(0)
    return GPT2Model(GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=20)).eval()


@pytest.mark.parametrize(
    "make", [*(partial(backbone, name) for name in ("bert", "esm", "luke")), gpt2]
)
def test_losses_and_rows_are_nearly_those_of_float32(make: Callable[[], nn.Module]) -> None:
    assert RECORDS * TOKENS > CPU_ROWS
    model = make()
    losses, rows = computed(model)
    with units_for_bfloat16():
        use_bfloat16(model, select_biases(model))
    rounded, other = computed(model)
    assert other.dtype == torch.float32
    # 8 bits of each factor, in two layers.
    torch.testing.assert_close(rounded, losses, rtol=2e-2, atol=0)
    assert not torch.equal(rounded, losses)
    assert ((rows - other).norm(dim=1) < 2e-2 * rows.norm(dim=1)).all()


def test_biases_and_all_outside_the_layers_stay_in_float32() -> None:
    model = backbone("bert")
    with units_for_bfloat16():
        use_bfloat16(model, select_biases(model))
    rounded = {name for name, value in model.named_parameters() if value.dtype == torch.bfloat16}
    layers = {name for name, _ in model.named_parameters() if "encoder.layer" in name}
    products = {name for name in layers if name.endswith("weight") and "LayerNorm" not in name}
    assert rounded == products != set()


def test_a_weight_that_trains_stays_in_float32() -> None:
    model = backbone("bert")
    name = "encoder.layer.1.output.dense.weight"
    with units_for_bfloat16():
        use_bfloat16(model, select_biases(model, (name,)))
    assert model.get_parameter(name).dtype == torch.float32
    assert model.get_parameter(name.replace("1", "0")).dtype == torch.bfloat16


def test_a_machine_without_units_for_it_is_named() -> None:
    with units_for_bfloat16(False), pytest.raises(InputError, match="no units for bfloat16 of cpu"):
        use_bfloat16(backbone("bert"), BiasLayout((), ()))


def test_a_model_without_a_stack_of_layers_is_refused() -> None:
    with units_for_bfloat16(), pytest.raises(ModelError, match="choose float32"):
        use_bfloat16(nn.Sequential(nn.Linear(2, 2)), BiasLayout((), ()))


def test_a_product_that_follows_from_other_records_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def multiply(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        product = functional.linear(values.bfloat16(), weight).float()
        return product * (1 + 1e-6 * len(values))

    monkeypatch.setattr(precision, "_multiply", multiply)
    folder = save(backbone("bert"), tmp_path)
    settings = read_settings(TextClassification, {"head": "trained"})
    with units_for_bfloat16(), pytest.raises(ModelError, match="its rounding changes"):
        attach(TextClassification, folder, settings, LABELS, precision="bfloat16")


@pytest.mark.parametrize(
    ("needs_gradients", "kind"), [(True, torch.bfloat16), (False, torch.float32)]
)
def test_losses_whose_differences_count_are_in_float32(
    needs_gradients: bool, kind: torch.dtype, tmp_path: Path
) -> None:
    folder = save(backbone("bert"), tmp_path)
    settings = read_settings(TextClassification, {"head": "trained"})
    with units_for_bfloat16():
        task = attach(
            *(TextClassification, folder, settings, LABELS),
            needs_gradients=needs_gradients,
            precision="bfloat16",
        )
    assert {value.dtype for value in task.model.parameters()} == {kind, torch.float32}
    whole = attach(TextClassification, folder, settings, LABELS, needs_gradients=needs_gradients)
    assert task.digest == whole.digest  # so that it is the coordinator's model
