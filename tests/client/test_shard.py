"""Which records a simulated site holds, and what it declares."""

from typing import Any

import pytest
from dpbitfit_client.shard import load_shard

from dpbitfit.errors import InputError


def shards(config: dict[str, Any], count: int) -> list[Any]:
    return [load_shard(config, {"partition-id": index}) for index in range(count)]


def test_simulated_sites_share_the_records_that_are_not_held_out(
    run_config: dict[str, Any],
) -> None:
    parts = shards({**run_config, "sites": 3}, 3)
    assert [part.name for part in parts] == ["site-1", "site-2", "site-3"]
    texts = [text for part in parts for text in part.examples.texts]
    assert len(texts) == 96  # 120 less the fifth that is held out
    assert {part.budget for part in parts} == {8.0}
    with pytest.raises(InputError, match="3 sites"):
        load_shard({**run_config, "sites": 3}, {"partition-id": 3})


def test_a_declared_size_is_taken_as_given(run_config: dict[str, Any]) -> None:
    assert [p.declared_size for p in shards({**run_config, "declared-size": 77}, 2)] == [77, 77]


def test_a_persons_records_stay_at_one_site(run_config: dict[str, Any]) -> None:
    parts = shards({**run_config, "unit-column": "customer"}, 2)
    owners = [set(part.examples.units) for part in parts]
    assert not owners[0] & owners[1]
    assert {part.unit for part in parts} == {"customer"}


def test_natural_sites_have_the_names_of_the_data(run_config: dict[str, Any]) -> None:
    named = {**run_config, "site-column": "label"}
    first = load_shard(named, {"partition-id": 0})
    assert set(first.examples.sites) == {first.name}
    assert first.name in first.labels
