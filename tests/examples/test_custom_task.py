"""A site's own task through the plug-in: checked as a built-in one, trained, and charged."""

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from dpbitfit_client.guard.service import serving
from torch import Tensor, nn

from dpbitfit.data.tables import Table
from dpbitfit.errors import ModelError
from dpbitfit.ledger import Ledger
from dpbitfit.tasks.attach import attach

from ..conftest import ROOT


@pytest.fixture(scope="module")
def example() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location(
        "custom_task", ROOT / "examples" / "custom_task.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["custom_task"] = module  # as the site's policy names it
    spec.loader.exec_module(module)
    yield module
    del sys.modules["custom_task"]


def test_the_example_trains_and_both_ledgers_hold_it(example: ModuleType, tmp_path: Path) -> None:
    history = example.main(tmp_path, rounds=1)
    first, last = (line["metrics"] for line in history)
    assert set(first) == set(last) == {"accuracy", "loss"}
    assert last["loss"] < first["loss"]
    for side in ("site", "coordinator"):
        ledger = Ledger(str(tmp_path / f"{side}.sqlite"), readonly=True)
        (account,) = ledger.accounts()
        (held,) = ledger.allotments([account.id])[account.id].values()
        assert held.committed == 10
        ledger.database.close()


def test_a_sites_own_loss_that_mixes_records_is_refused_when_it_is_attached(
    example: ModuleType, tmp_path: Path
) -> None:
    class Mixing(example.VitalRecords):  # type: ignore[misc, name-defined]
        def losses(self, model: nn.Module, records: Sequence[int]) -> Tensor:
            losses: Tensor = super().losses(model, records)
            return losses / losses.mean()

    class Task(example.VitalSigns):  # type: ignore[misc, name-defined]
        def probes(self) -> Any:
            return Mixing(self, example.make_table(6, seed=0))

    example.VitalSigns(example.network(), example.VitalSettings(), example.LABELS).save(tmp_path)
    with pytest.raises(ModelError, match="mixes records"):
        attach(Task, str(tmp_path), example.VitalSettings(), example.LABELS)


def test_records_of_a_sites_own_task_that_change_with_others_start_no_guard(
    example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Standardised(example.VitalSigns):  # type: ignore[misc, name-defined]
        def records(self, table: Table) -> Any:
            records = super().records(table)
            records.features -= records.features.mean(dim=0)
            return records

    with Ledger(str(tmp_path / "coordinator.sqlite"), create=True) as coordinator:
        policy = example.prepare(tmp_path, coordinator)
    monkeypatch.setattr(example, "VitalSigns", Standardised)
    with pytest.raises(ModelError, match="training of network: a record's"), serving(policy):
        pass
    assert not policy.site.socket.exists()  # it never answered
