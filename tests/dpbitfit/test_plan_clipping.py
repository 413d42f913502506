"""Clipping in a plan: what can be said, what is refused, and what bounds follow."""

import json
from typing import Any

import pytest

from dpbitfit.engine.groups import ByKind, HeadAndBiases, PerLayer, PerStage
from dpbitfit.engine.groupwise import AdaptiveClipping, GroupwiseClipping
from dpbitfit.errors import InputError, ProtocolError
from dpbitfit.phases import BiasPhase, DpZeroPhase
from dpbitfit.plan import Plan
from dpbitfit.schema import build, canonical

from ..support import plans

GROUPWISE: dict[str, Any] = json.loads(GroupwiseClipping().encode())
ADAPTIVE: dict[str, Any] = json.loads(AdaptiveClipping(groups=ByKind()).encode())
PLAN = plans.plan()
# As a hostile coordinator would say them, each with what is named in the refusal.
HOSTILE: list[tuple[dict[str, Any], str]] = [
    # Groups that overlap, leave a bias out or are no groups: places cannot be said at all.
    ({**GROUPWISE, "groups": [[0, 1], [1, 2]]}, "groups"),
    ({**GROUPWISE, "groups": {"rule": "all-but-the-head", "norm": 1.0}}, "rule"),
    ({**GROUPWISE, "groups": {**GROUPWISE["groups"], "places": [0, 1]}}, "places"),
    ({**GROUPWISE, "groups": {"rule": "head-and-biases", "head_norm": 1.0}}, "biases_norm"),
    ({**GROUPWISE, "groups": {**GROUPWISE["groups"], "norm": 1e7}}, "norm"),
    ({**GROUPWISE, "groups": {**GROUPWISE["groups"], "norm": 0.0}}, "norm"),
    ({**GROUPWISE, "groups": {**GROUPWISE["groups"], "norm": float("inf")}}, "norm"),
    ({**ADAPTIVE, "groups": {**ADAPTIVE["groups"], "head_norm": -1.0}}, "head_norm"),
    ({**ADAPTIVE, "groups": {**ADAPTIVE["groups"], "normalization_norm": 1e300}}, "normalization"),
    ({**GROUPWISE, "allocation": "none"}, "allocation"),
    ({**GROUPWISE, "quantile": 0.5}, "quantile"),
    ({**ADAPTIVE, "quantile_cost": 0.0}, "quantile_cost"),
    ({**ADAPTIVE, "quantile_cost": float("nan")}, "quantile_cost"),
    ({**ADAPTIVE, "quantile_noise": 0.0}, "quantile_noise"),
    ({**ADAPTIVE, "quantile": 1.5}, "quantile"),
    ({**ADAPTIVE, "norm_rate": 1e9}, "norm_rate"),
    ({**ADAPTIVE, "norms": [1.0, 1.0]}, "norms"),
]


@pytest.mark.parametrize(("part", "names"), HOSTILE, ids=str)
def test_what_no_honest_plan_says_is_refused_by_name(part: dict[str, Any], names: str) -> None:
    with pytest.raises((InputError, ProtocolError), match=names):
        Plan.decode(plans.Forged(PLAN, clipping_part=part).encode())


@pytest.mark.parametrize("clipping", [GroupwiseClipping(), AdaptiveClipping(groups=ByKind())])
def test_a_plan_says_the_whole_clipping(clipping: Any) -> None:
    own = PLAN.changed(phases=(PLAN.phases[0].changed(clipping=clipping),))
    assert Plan.decode(own.encode()) == own
    assert own.counts == PLAN.counts  # what it costs is the multiplier's and the rate's
    other = clipping.changed(allocation="least-total")
    assert own.changed(phases=(own.phases[0].changed(clipping=other),)).digest != own.digest


def test_flat_clipping_is_said_as_ever() -> None:
    """Plans of both flat kinds keep their bytes, and so their digests."""
    part = {"function": "abadi", "grouping": "all", "norm": 8.0}
    assert json.loads(BiasPhase(noise=PLAN.phases[0].noise).encode())["clipping"] == part


def test_options_fill_every_part() -> None:
    values: dict[str, Any] = {
        "noise-multiplier": 1.0,
        "clipping": "adaptive",
        "clipping-groups": "by-kind",
        "head-clipping-norm": 3.0,
        "biases-clipping-norm": 0.3,
        "normalization-clipping-norm": 0.1,
        "noise-allocation": "least-total",
        "clipping-quantile": 0.7,
        "clipping-norm-rate": 0.2,
        "clipping-quantile-cost": 0.05,
    }
    assert build(BiasPhase, values).clipping == AdaptiveClipping(
        groups=ByKind(head_norm=3.0, biases_norm=0.3, normalization_norm=0.1),
        allocation="least-total",
        quantile=0.7,
        norm_rate=0.2,
        quantile_cost=0.05,
    )
    flat = {**values, "clipping": "group-wise", "clipping-groups": "per-layer"}
    assert build(BiasPhase, {**flat, "clipping-norm": 2.0}).clipping == GroupwiseClipping(
        groups=PerLayer(norm=2.0), allocation="least-total"
    )
    staged = {**flat, "clipping-groups": "per-stage", "clipping-norm": 2.0, "clipping-stages": 3}
    assert build(BiasPhase, staged).clipping == GroupwiseClipping(
        groups=PerStage(norm=2.0, stages=3), allocation="least-total"
    )
    for stages in (1, 10**9):
        with pytest.raises(InputError, match="clipping-stages"):
            build(BiasPhase, {**staged, "clipping-stages": stages})
    with pytest.raises(InputError, match="clipping-groups: must be one of 'per-layer'"):
        build(BiasPhase, {**values, "clipping-groups": "none"})
    with pytest.raises(InputError, match="head-clipping-norm"):
        build(BiasPhase, {**values, "head-clipping-norm": 0.0})


@pytest.mark.parametrize("part", [GROUPWISE, ADAPTIVE])
def test_a_phase_whose_rows_have_no_layers_takes_no_groups(part: dict[str, Any]) -> None:
    noise = PLAN.phases[0].noise
    tree = json.loads(PLAN.changed(phases=(DpZeroPhase(noise=noise),)).encode())
    tree["phases"][0]["clipping"] = part
    with pytest.raises((InputError, ProtocolError), match="clipping"):
        Plan.decode(canonical(tree))


def test_bounds_on_what_a_site_sends_follow_from_the_norms() -> None:
    """Of SGD, whose steps have the gradients' length; adaptive norms may leave the plan's."""
    sgd = plans.phase(optimizer="sgd", clipping="abadi", clipping_norm=2.0)
    alike = sgd.changed(clipping=GroupwiseClipping(groups=PerLayer(norm=2.0)))
    assert alike.largest_update(100, 50) == sgd.largest_update(100, 50)
    for groups in (PerLayer(), PerStage(), HeadAndBiases(), ByKind()):
        fixed = sgd.changed(clipping=GroupwiseClipping(groups=groups))
        adaptive = sgd.changed(clipping=AdaptiveClipping(groups=groups))
        assert adaptive.largest_update(100, 50) > 100 * fixed.largest_update(100, 50)
