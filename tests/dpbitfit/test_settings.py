"""The run configuration: every key known, every type checked, every default usable."""

from pathlib import Path
from typing import Any

import pytest

from dpbitfit.accounting import composition
from dpbitfit.errors import InputError
from dpbitfit.phases import BiasPhase, DpZeroPhase
from dpbitfit.planner import NO_HEAD, Choices
from dpbitfit.schema import options
from dpbitfit.settings import OPTIONS, RunSettings, Settings
from dpbitfit.tasks.registry import TEXT_CLASSIFICATION, resolve


@pytest.fixture
def config(run_config: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    return {**run_config, "out": str(tmp_path)}


def test_the_projects_own_configuration_is_valid(config: dict[str, Any]) -> None:
    settings = RunSettings.read(config)
    plan = settings.plan("a", "b", NO_HEAD)
    bound = composition.epsilon(dict(plan.counts), plan.delta)
    assert 0.98 * settings.run.target_epsilon < bound.epsilon <= settings.run.target_epsilon
    assert plan.unit == "record"


def test_the_projects_own_configuration_is_every_option_at_its_default(
    project_config: dict[str, Any],
) -> None:
    """As ``[tool.flwr.app.config]`` and as the example's says it: each key once, none beside.

    The settings of another task than the default one may be left out.
    """
    defaults = {option.key: option.default for option in OPTIONS}
    assert project_config == {key: defaults[key] for key in project_config}
    parts = (Settings, Choices, BiasPhase, DpZeroPhase, resolve(TEXT_CLASSIFICATION, {}).Settings)
    assert project_config.keys() >= {option.key for part in parts for option in options(part)}
    assert all(option.help for option in OPTIONS)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("rounds", "ten", "rounds"),
        ("rounds", True, "rounds"),
        ("rounds", -1, "rounds"),
        ("out", "", "out"),
        ("labels", "", "labels"),
        ("server-strategy", "fedsgd", "server-strategy"),
        ("min-replies", 0, "min-replies"),
        ("round-timeout", -1.0, "round-timeout"),
        ("sampling-rate", 1.5, "sampling-rate"),
        ("target-epsilon", 0.0, "target-epsilon"),
        ("learning-rate", -1.0, "learning-rate"),
        ("noise", "none", "noise"),
        ("clipping", "none", "clipping"),
        ("site-metrics", "accuracy", "'site-metrics' and 'site-evaluations' .* give both"),
        ("site-evaluations", 3, "give both, or neither"),
    ],
)
def test_what_cannot_be_is_named(config: dict[str, Any], key: str, value: Any, says: str) -> None:
    with pytest.raises((InputError, composition.AccountingError), match=says):
        RunSettings.read({**config, key: value}).plan("a", "b", NO_HEAD)


def test_a_missing_key_is_named_and_a_whole_number_is_a_number(config: dict[str, Any]) -> None:
    assert RunSettings.read({**config, "target-epsilon": 8}).run.target_epsilon == 8.0
    del config["delta"]
    with pytest.raises(InputError, match="delta"):
        RunSettings.read(config)


def test_a_given_noise_multiplier_is_not_calibrated(config: dict[str, Any]) -> None:
    plan = RunSettings.read({**config, "noise-multiplier": 3.5}).plan("a", "b", NO_HEAD)
    assert [phase.noise.multiplier for phase in plan.phases] == [3.5]


def test_dp_zero_takes_the_place_of_biases(config: dict[str, Any]) -> None:
    zero = {**config, "phases": "dp-zero", "directions": 16, "smoothing": 1e-2, "rounds": 7}
    settings = RunSettings.read(zero)
    (phase,) = settings.plan("a", "b", NO_HEAD).phases
    assert isinstance(phase, DpZeroPhase)
    assert (phase.estimator.directions, phase.estimator.smoothing) == (16, 1e-2)
    assert (phase.rounds, phase.optimizer.name) == (7, "sgd")
    assert not settings.needs_gradients
    with pytest.raises(InputError, match="not both"):
        RunSettings.read({**zero, "phases": "biases,dp-zero"}).plan("a", "b", NO_HEAD)
    with pytest.raises(InputError, match="directions"):
        RunSettings.read({**zero, "directions": 10**9})
