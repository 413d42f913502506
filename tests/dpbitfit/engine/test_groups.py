"""What a rule makes of a layout: groups that share no value and leave none out."""

from typing import Any

import numpy as np
import pytest
from torch import nn

from dpbitfit.engine.biases import select_biases
from dpbitfit.engine.groups import ByKind, HeadAndBiases, PerLayer


def model() -> nn.Module:
    block = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.Linear(5, 3), nn.GroupNorm(1, 3))
    return nn.Sequential(nn.Sequential(block), nn.Linear(3, 4))


HEAD_AND_BIASES: dict[str, Any] = {"head_norm": 2.0, "biases_norm": 0.5}
RULES = [
    (PerLayer(norm=3.0), ["0.0.0", "0.0.1", "0.0.2", "0.0.3", "head"], [3 / 5**0.5] * 5),
    (HeadAndBiases(**HEAD_AND_BIASES), ["biases", "head"], [0.5, 2.0]),
    (
        ByKind(**HEAD_AND_BIASES, normalization_norm=0.1),
        ["biases", "normalization", "head"],
        [0.5, 0.1, 2.0],
    ),
]


@pytest.mark.parametrize(("rule", "names", "norms"), RULES)
def test_a_rule_parts_the_whole_layout(rule: Any, names: list[str], norms: list[float]) -> None:
    layout = select_biases(model(), ["1.weight"])
    groups = rule.groups(model(), layout)
    assert list(groups.names) == names
    assert groups.norms == pytest.approx(norms)
    assert groups.members.shape == (layout.size,)
    assert set(groups.members) == set(range(len(names)))
    assert groups.sizes.sum() == layout.size
    assert groups.sizes[names.index("head")] == 4 * 3 + 4


def test_each_parameter_is_in_the_group_of_its_layer() -> None:
    layout = select_biases(model(), ["1.weight"])
    for rule in (PerLayer(), ByKind()):
        groups = rule.groups(model(), layout)
        for name, _, place in layout.slices():
            (number,) = set(groups.members[place])
            layer = name.rpartition(".")[0]
            kind = {"0.0.1": "normalization", "0.0.3": "normalization"}.get(layer, "biases")
            wanted = kind if isinstance(rule, ByKind) else layer
            assert groups.names[number] == ("head" if layer == "1" else wanted)


def test_without_a_head_that_trains_its_bias_is_one_of_the_others() -> None:
    groups = HeadAndBiases(**HEAD_AND_BIASES).groups(model(), select_biases(model()))
    assert groups.names == ("biases",)
    assert (groups.norms == [0.5]).all()


def test_the_bound_holds_for_any_layout() -> None:
    """On a row's norm, and on a group's norm times the root of their number."""
    for rule, _, _ in RULES:
        for train_also in ([], ["1.weight"]):
            norms = rule.groups(model(), select_biases(model(), train_also)).norms
            assert np.linalg.norm(norms) <= rule.largest * (1 + 1e-12)
            assert norms.max() * len(norms) ** 0.5 <= rule.largest * (1 + 1e-12)
