"""The run configuration: every key known, every type checked, every default usable."""

from pathlib import Path
from typing import Any

import pytest
from dpbitfit_server.settings import Settings
from flwr.serverapp.strategy import FedAdam, FedAvg, FedMedian

from dpbitfit.accounting import composition
from dpbitfit.errors import InputError


@pytest.fixture
def config(run_config: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    return {**run_config, "out": str(tmp_path)}


def test_the_projects_own_configuration_is_valid(config: dict[str, Any]) -> None:
    settings = Settings.read(config)
    plan = settings.plan("a", "b")
    bound = composition.epsilon({plan.mechanism: plan.steps}, plan.delta)
    assert 0.98 * settings.target_epsilon < bound.epsilon <= settings.target_epsilon
    assert plan.unit == "record"


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("rounds", "ten", "rounds"),
        ("rounds", True, "rounds"),
        ("rounds", 0, "steps"),
        ("out", "", "out"),
        ("labels", "", "labels"),
        ("server-strategy", "fedsgd", "server-strategy"),
        ("min-replies", 0, "min-replies"),
        ("round-timeout", -1.0, "round-timeout"),
        ("sampling-rate", 1.5, "sampling rate"),
        ("target-epsilon", 0.0, "target epsilon"),
        ("learning-rate", -1.0, "learning_rate"),
        ("noise", "none", "noise"),
        ("clipping", "none", "clipping"),
    ],
)
def test_what_cannot_be_is_named(config: dict[str, Any], key: str, value: Any, says: str) -> None:
    with pytest.raises((InputError, composition.AccountingError), match=says):
        Settings.read({**config, key: value}).plan("a", "b")


def test_a_missing_key_is_named_and_a_whole_number_is_a_number(config: dict[str, Any]) -> None:
    assert Settings.read({**config, "target-epsilon": 8}).target_epsilon == 8.0
    del config["delta"]
    with pytest.raises(InputError, match="delta"):
        Settings.read(config)


def test_a_given_noise_multiplier_is_not_calibrated(config: dict[str, Any]) -> None:
    assert Settings.read({**config, "noise-multiplier": 3.5}).plan("a", "b").noise_multiplier == 3.5


@pytest.mark.parametrize(
    ("name", "kind"), [("fedavg", FedAvg), ("fedadam", FedAdam), ("fedmedian", FedMedian)]
)
def test_the_flower_strategy_is_chosen_by_name(
    config: dict[str, Any], name: str, kind: type
) -> None:
    assert type(Settings.read({**config, "server-strategy": name}).strategy()) is kind
