"""Which records a simulated site holds, and what it declares."""

from typing import Any

import pytest
from dpbitfit_client.policy import Dataset
from dpbitfit_client.simulated import simulated_site

from dpbitfit.errors import InputError
from dpbitfit.tables import Examples


def sites(config: dict[str, Any], count: int) -> dict[str, tuple[Dataset, Examples]]:
    found = {}
    for index in range(count):
        policy, examples = simulated_site(config, {"partition-id": index})
        (dataset,) = policy.datasets.values()
        found[policy.site.name] = (dataset, examples)
    return found


def test_simulated_sites_share_the_records_that_are_not_held_out(
    run_config: dict[str, Any],
) -> None:
    parts = sites({**run_config, "sites": 3}, 3)
    assert list(parts) == ["site-1", "site-2", "site-3"]
    texts = [text for _, examples in parts.values() for text in examples.texts]
    assert len(texts) == 96  # 120 less the fifth that is held out
    assert {dataset.epsilon for dataset, _ in parts.values()} == {8.0}
    with pytest.raises(InputError, match="3 sites"):
        sites({**run_config, "sites": 3}, 4)


def test_a_declared_size_is_taken_as_given(run_config: dict[str, Any]) -> None:
    parts = sites({**run_config, "declared-size": 77}, 2)
    assert [dataset.declared_size for dataset, _ in parts.values()] == [77, 77]


def test_a_persons_records_stay_at_one_site(run_config: dict[str, Any]) -> None:
    parts = sites({**run_config, "unit-column": "customer"}, 2)
    owners = [set(examples.units or ()) for _, examples in parts.values()]
    assert not owners[0] & owners[1]
    assert {dataset.unit for dataset, _ in parts.values()} == {"customer"}


def test_natural_sites_have_the_names_of_the_data(run_config: dict[str, Any]) -> None:
    named = {**run_config, "site-column": "label"}
    ((name, (_, examples)),) = sites(named, 1).items()
    assert set(examples.sites or ()) == {name}
