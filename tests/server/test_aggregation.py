"""What may aggregate, by name."""

from typing import get_args

import pytest
from dpbitfit_server.aggregation import STRATEGIES
from flwr.serverapp.strategy import FedAdam, FedAvg, FedMedian

from dpbitfit.settings import Settings

KINDS = {"fedavg": FedAvg, "fedadam": FedAdam, "fedmedian": FedMedian}


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_flower_strategy_is_chosen_by_name(name: str) -> None:
    strategy = STRATEGIES[name](0.5)
    assert type(strategy) is KINDS[name]
    assert getattr(strategy, "eta", 0.5) == 0.5


def test_every_name_that_a_run_may_give_is_here() -> None:
    assert set(get_args(Settings.model_fields["server_strategy"].annotation)) == set(STRATEGIES)
