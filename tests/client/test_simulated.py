"""Which records a simulated site holds, and what it declares."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dpbitfit_client import simulated
from dpbitfit_client.guard.guard import Guard
from dpbitfit_client.guard.task_cache import LoadedTask
from dpbitfit_client.policy.policy import Dataset
from dpbitfit_client.simulated import simulated_guard, simulated_site

from dpbitfit.data.tables import Table
from dpbitfit.engine.optimizers import OptimizerState
from dpbitfit.errors import InputError
from dpbitfit.ledger import Ledger
from dpbitfit.ledger.begin import site_path
from dpbitfit.plan import Plan
from dpbitfit.tasks.rounds import RoundStart, site_round

from ..support import plans
from ..support.bfloat16 import units_for_bfloat16


def sites(config: dict[str, Any], count: int) -> dict[str, tuple[Dataset, Table]]:
    result = {}
    for index in range(count):
        policy, examples = simulated_site(config, {"partition-id": index})
        (dataset,) = policy.datasets.values()
        result[policy.site.name] = (dataset, examples)
    return result


def load(guard: Guard, dataset: Dataset, plan: Plan) -> LoadedTask:
    settings = guard.tasks.settings(dataset, plan)
    return guard.tasks.load(dataset, plan.model.name, settings, plan.needs_gradients)


def test_simulated_sites_share_the_records_that_are_not_held_out(
    run_config: dict[str, Any],
) -> None:
    parts = sites({**run_config, "sites": 3}, 3)
    assert list(parts) == ["site-1", "site-2", "site-3"]
    texts = [text for _, examples in parts.values() for text in examples.columns["text"]]
    assert len(texts) == pytest.approx(96, abs=18)  # 120 less about a fifth that is held out
    assert {dataset.epsilon for dataset, _ in parts.values()} == {8.0}
    with pytest.raises(InputError, match="3 sites"):
        sites({**run_config, "sites": 3}, 4)


def test_an_account_keeps_its_budget_in_later_runs(
    run_config: dict[str, Any], tmp_path: Path
) -> None:
    """As the coordinator's does: ``budget`` and the target are those of an account that is new."""
    config = {**run_config, "site-ledgers": str(tmp_path), "target-epsilon": 3.0}
    Ledger(str(site_path(tmp_path, "site-1")), create=True).database.close()
    for budget, expected in ((8.0, 8.0), (0.0, 8.0), (2.0, 8.0)):
        guard = simulated_guard({**config, "budget": budget}, {"partition-id": 0})
        (account,) = guard.ledger.accounts()
        assert account.budget == expected
        assert [event.kind for event in guard.ledger.events(account.name)] == ["open"]
        guard.ledger.database.close()
    (known, _), _ = sites({**config, "budget": 0.0}, 2).values()
    assert known.epsilon == 8.0
    (other, _), _ = sites({**config, "budget": 0.0, "unit-column": "customer"}, 2).values()
    assert other.epsilon == 3.0


def test_a_declared_size_is_taken_as_given(run_config: dict[str, Any]) -> None:
    parts = sites({**run_config, "declared-size": 77}, 2)
    assert [dataset.declared_size for dataset, _ in parts.values()] == [77, 77]


def test_a_size_to_declare_is_an_equal_share_to_one_digit(run_config: dict[str, Any]) -> None:
    """Of all the records, not a site's own: how many it got is its own affair."""
    parts = sites({**run_config, "sites": 4, "skew": 10.0}, 4)
    counts = [len(examples) for _, examples in parts.values()]
    share = sum(counts) / 4
    assert min(counts) < share - 5
    assert int(share) % 10  # a share of one digit would not tell
    assert [dataset.declared_size for dataset, _ in parts.values()] == [round(share, -1)] * 4


def test_a_record_that_comes_is_the_only_difference(
    run_config: dict[str, Any], tmp_path: Path
) -> None:
    """Fails when records go by their row: a neighbouring file then moves many of them."""
    header, *rows = Path(run_config["data"]).read_text().splitlines()
    more = tmp_path / "more.csv"
    more.write_text("\n".join([header, "I have come,card_lost,customer-1", *rows]))

    def dealt(config: dict[str, Any]) -> set[tuple[str, str]]:
        return {
            (name, text)
            for name, (_, held) in sites(config, 2).items()
            for text in held.columns["text"]
        }

    (came,) = dealt({**run_config, "data": str(more)}) ^ dealt(run_config)
    assert came[1] == "I have come"


def test_a_persons_records_stay_at_one_site(run_config: dict[str, Any]) -> None:
    parts = sites({**run_config, "unit-column": "customer"}, 2)
    owners = [set(examples.units or ()) for _, examples in parts.values()]
    assert not owners[0] & owners[1]
    assert {dataset.unit for dataset, _ in parts.values()} == {"customer"}


def test_sites_of_one_process_share_a_model_and_each_trains_from_its_own_biases(
    run_config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails where a model is loaded for each site, and where one trains what another has left."""
    kinds = []

    def attach(kind: Any, *given: Any) -> Any:
        kinds.append(kind)
        return attached(kind, *given)

    attached = simulated.attach
    monkeypatch.setattr(simulated, "attach", attach)
    simulated._shared_task.cache_clear()
    config = {**run_config, "out": str(tmp_path), "sites": 3}
    plan = plans.plan(
        noise_multiplier=0.01,
        sampling_rate=1.0,
        rounds=1,
        steps_per_round=1,
        max_length=24,
        optimizer="sgd",
    )

    def change(index: int, distance: float) -> np.ndarray:
        guard = simulated_guard(config, {"partition-id": index})
        (dataset,) = guard.policy.datasets.values()
        loaded = load(guard, dataset, plan)
        biases = (loaded.task.pretrained + np.float32(distance)).astype(np.float32)
        start = RoundStart(plan.phases[0], 50, biases, OptimizerState())
        records, features = loaded.records(dataset), loaded.features(dataset)
        moved, _ = site_round(loaded.task, records, features, start)
        return moved / np.linalg.norm(moved)

    alone = change(0, 0.0)
    far = change(1, 2.0)
    again = change(0, 0.0)
    change(2, 0.0)
    assert len(kinds) == 1
    assert alone @ again > 0.8
    assert far @ again < 0.4


def test_a_site_loads_its_model_in_the_runs_precision(
    run_config: dict[str, Any], tmp_path: Path
) -> None:
    config = {**run_config, "out": str(tmp_path), "precision": "bfloat16"}
    guard = simulated_guard(config, {"partition-id": 0})
    (dataset,) = guard.policy.datasets.values()
    with units_for_bfloat16(False), pytest.raises(InputError, match="no units for bfloat16"):
        load(guard, dataset, plans.plan(max_length=24))


def test_natural_sites_have_the_names_of_the_data(run_config: dict[str, Any]) -> None:
    named = {**run_config, "site-column": "label"}
    ((name, (dataset, examples)),) = sites(named, 1).items()
    assert set(examples.sites or ()) == {name}
    assert dataset.declared_size == len(examples) < 10  # its own, not a share of the whole


def test_a_natural_site_whose_records_are_held_out_takes_part_with_none(
    run_config: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "data.csv"
    rows = [f"text {n},card_lost,clinic {n}" for n in range(10)]
    file.write_text("\n".join(["text,label,clinic", *rows]))
    parts = sites({**run_config, "data": str(file), "site-column": "clinic"}, 10)
    assert {len(examples) for _, examples in parts.values()} == {0, 1}
    assert {dataset.declared_size for dataset, _ in parts.values()} == {1}
