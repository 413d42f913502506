"""Coordinator, sites and command line agree on which records are held out."""

from pathlib import Path
from typing import Any

import pytest

from dpbitfit.data.run_data import RunData
from dpbitfit.data.tables import Table, read_table
from dpbitfit.errors import InputError
from dpbitfit.tasks.text_classification.settings import COLUMNS


def rows(table: Table) -> list[tuple[str, int]]:
    return list(zip(*table.columns.values(), strict=True))


@pytest.mark.parametrize("unit", ["", "customer"])
@pytest.mark.parametrize("site", ["", "label"])
def test_every_record_trains_at_one_site_or_is_held_out(
    run_config: dict[str, Any], unit: str, site: str
) -> None:
    data = RunData.read({**run_config, "unit-column": unit, "site-column": site})
    whole = read_table(data.data, COLUMNS, data.label_set())
    test = data.test(COLUMNS)
    sites = data.sites(COLUMNS, 3, 0.0)
    parts = [*map(rows, sites.values()), rows(test)]
    assert sorted(row for part in parts for row in part) == sorted(rows(whole))
    assert len(test) > 0


def test_public_test_records_leave_all_others_for_training(
    run_config: dict[str, Any], tmp_path: Path
) -> None:
    test = tmp_path / "test.csv"
    test.write_text("text,label\nwhere is it,card_lost\n")
    data = RunData.read({**run_config, "unit-column": "customer", "test-data": str(test)})
    assert rows(data.test(COLUMNS)) == [("where is it", data.label_set().index("card_lost"))]
    assert sum(map(len, data.sites(COLUMNS, 3, 0.0).values())) == 120


def test_columns_are_called_as_the_configuration_says(
    run_config: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "other.csv"
    file.write_text("body,topic\nhello,card_lost\n")
    names = {"text-column": "body", "label-column": "topic", "test-data": str(file)}
    data = RunData.read({**run_config, **names, "data": str(file)})
    assert list(data.sites(COLUMNS, 1, 0.0)["site-1"].columns) == ["text", "label"]
    with pytest.raises(InputError, match="no column 'text'"):
        RunData.read({**run_config, "data": str(file)}).sites(COLUMNS, 1, 0.0)


def test_a_site_whose_records_are_all_held_out_is_still_a_site(
    run_config: dict[str, Any], tmp_path: Path
) -> None:
    """Else whether it takes part would tell on which side its only record fell."""
    file = tmp_path / "data.csv"
    rows = [f"text {n},card_lost,clinic {n}" for n in range(40)]
    file.write_text("\n".join(["text,label,clinic", *rows]))
    data = RunData.read({**run_config, "data": str(file), "site-column": "clinic"})
    sites = data.sites(COLUMNS, 3, 0.0)
    assert list(sites) == sorted(f"clinic {n}" for n in range(40))
    assert sum(map(len, sites.values())) == 40 - len(data.test(COLUMNS)) < 40
