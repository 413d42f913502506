"""Plans of DPZero that no site should work on: refused before a record is read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dpbitfit.engine.noise import DiscreteGaussianNoise
from dpbitfit.phases import DpZeroPhase

from ...support import plans
from ...support.sites import Site, served

COORDINATORS = ("datasets", "letters", "coordinators")
PHASE = DpZeroPhase.checked(
    noise=DiscreteGaussianNoise(multiplier=8.0), rounds=3, steps_per_round=1
)
PHASE = PHASE.changed(estimator=PHASE.estimator.changed(directions=4), sampling_rate=0.1)


@pytest.fixture(scope="module")
def site(corpus: Path) -> Iterator[Site]:
    """Of its two coordinators only the second may use DPZero."""
    with served(corpus, ((*COORDINATORS, "other", "phases"), ["biases", "dp-zero"])) as site:
        yield site


def changed(path: str, value: Any) -> dict[str, Any]:
    """The phase as JSON with one field changed, or one that it does not have."""
    tree = PHASE.model_dump(mode="json")
    *outer, last = path.split(".")
    inner = tree
    for name in outer:
        inner = inner[name]
    inner[last] = value
    return tree


WRONG = [
    ("estimator.directions", 10**9, "bad-input"),
    ("estimator.directions", 0, "bad-input"),
    ("estimator.directions", 65, "policy"),
    ("estimator.smoothing", 1e-300, "bad-input"),
    ("estimator.smoothing", 1e30, "bad-input"),
    ("estimator.smoothing", -1e-3, "bad-input"),
    ("estimator.kind", "bias-gradients", "bad-input"),
    ("estimator.seed", "00" * 32, "protocol"),  # no seed is chosen, and none late
    ("seed", "00" * 32, "protocol"),
    ("optimizer.name", "adam", "bad-input"),
    ("steps_per_round", 10**9, "bad-input"),
    ("noise.kind", "fast-insecure", "policy"),
    ("noise.multiplier", 0.5, "policy"),
    ("sampling_rate", 0.9, "policy"),
]


def test_hostile_plans_are_refused_before_a_record_is_read(site: Site) -> None:
    base = site.plan()
    for path, value, code in WRONG:
        plan: Any = plans.Forged(base, phase=changed(path, value))
        assert site.refused(plan, by=site.other).code == code, (path, value)
    good = base.changed(phases=(PHASE,))
    assert site.refused(good).code == "policy"  # of the coordinator whose limits do not name it
    both = plans.Forged(base)
    both._tree["phases"].append(PHASE.model_dump(mode="json"))
    assert site.refused(both, by=site.other).code == "bad-input"  # type: ignore[arg-type]
    assert site.readings() == ["train", "evaluate"]  # at the start, and for no plan
    assert site.spent() == {}


def test_a_coordinator_that_may_use_it_gets_four_bytes_a_direction(site: Site) -> None:
    plan = site.plan().changed(phases=(PHASE,))
    first, second = (site.train(plan, by=site.other, round=number) for number in (1, 2))
    assert len(first.content) == len(second.content) == 4 * 4
    assert first.content != second.content
    assert site.spent() == {"committed": 2}
