"""Parquet files: what holds text is read, every other type is refused by its name."""

from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from dpbitfit.data.columns import Kind
from dpbitfit.data.tables import Table, read_table
from dpbitfit.errors import InputError
from dpbitfit.tasks.text_classification.settings import COLUMNS

LABELS = ("card", "loan", "1")
TEXTS = ["Müller hustet", "beißt"]
LABELLED = ["card", "loan"]


def table(path: Path, columns: dict[str, Any], unit: str | None = None) -> Table:
    parquet.write_table(pa.table(columns), path)
    return read_table(path, COLUMNS, LABELS, unit_column=unit)


@pytest.mark.parametrize(
    "kind", [pa.binary(), pa.large_binary(), pa.string(), pa.large_string(), pa.string_view()]
)
def test_bytes_that_are_utf_8_are_text(tmp_path: Path, kind: Any) -> None:
    """Spark writes strings so."""
    columns = {"text": pa.array(TEXTS, kind), "label": pa.array(LABELLED, kind)}
    read = table(tmp_path / "a.parquet", {**columns, "who": pa.array(TEXTS, kind)}, "who")
    assert read.columns == {"text": TEXTS, "label": [0, 1]}
    assert read.units == TEXTS


def test_categories_are_the_text_that_they_stand_for(tmp_path: Path) -> None:
    columns = {
        "text": pa.array(TEXTS),
        "label": pa.array(LABELLED).dictionary_encode(),
        "who": pa.array([b"a", b"b"]).dictionary_encode(),
    }
    read = table(tmp_path / "a.parquet", columns, "who")
    assert (read.columns["label"], read.units) == ([0, 1], ["a", "b"])


def test_whole_numbers_are_names(tmp_path: Path) -> None:
    columns = {"text": TEXTS, "label": pa.array([1, 1]), "who": pa.array([7.0, 8.0])}
    read = table(tmp_path / "a.parquet", columns, "who")
    assert (read.columns["label"], read.units) == ([2, 2], ["7", "8"])


@pytest.mark.parametrize("column", ["text", "label", "who"])
@pytest.mark.parametrize(
    ("values", "name"),
    [
        (pa.array([["a"], ["b"]]), "list"),
        (pa.array([{"name": "a"}, {"name": "b"}]), "struct"),
        (pa.array([1, 2**62], pa.timestamp("ns")), "timestamp"),
        (pa.array([date(2024, 1, 1)] * 2), "date32"),
        (pa.array([1, 2], pa.duration("s")), "duration"),
        (pa.array([True, False]), "bool"),
        (pa.array([Decimal("1.5"), Decimal(2)]), "Decimal"),
        (pa.array([b"a", b"b"], pa.binary(1)), "fixed_size_binary"),
    ],
)
def test_what_is_no_text_is_refused_by_its_type(
    tmp_path: Path, column: str, values: Any, name: str
) -> None:
    columns = {"text": TEXTS, "label": LABELLED, "who": TEXTS, column: values}
    with pytest.raises(InputError, match=f"column '{column}' .* type {name}.*: write it as text"):
        table(tmp_path / "a.parquet", columns, "who")


def test_bytes_that_are_no_utf_8_are_named_by_their_row(tmp_path: Path) -> None:
    columns = {"text": [b"fine", "Müller".encode("latin-1")], "label": LABELLED}
    with pytest.raises(InputError, match="row 2: column 'text' is no Unicode text") as caught:
        table(tmp_path / "a.parquet", columns)
    assert "ller" not in str(caught.value)


def test_missing_units_are_counted(tmp_path: Path) -> None:
    """Else all persons that are not known would be one unit."""
    for absent in (pa.array([None, None, "a"]), pa.array([float("nan"), float("nan"), 1.0])):
        columns = {"text": ["a", "b", "c"], "label": ["card"] * 3, "who": absent}
        with pytest.raises(InputError, match=r"row 1: column 'who' is empty.* 2 rows in all"):
            table(tmp_path / "a.parquet", columns, "who")


@pytest.mark.parametrize("word", ["<NA>", "NaT", "nan", "None", "\u200b", " "])
def test_a_missing_unit_that_was_printed_is_missing(tmp_path: Path, word: str) -> None:
    columns = {"text": TEXTS, "label": LABELLED, "who": ["a", word]}
    with pytest.raises(InputError, match="row 2: column 'who' is empty"):
        table(tmp_path / "a.parquet", columns, "who")


def test_columns_that_were_not_asked_for_may_hold_anything(tmp_path: Path) -> None:
    columns = {
        "seen": pa.array([2**62, None], pa.timestamp("ns")),
        "born": pa.array([10**12, -(10**12)], pa.timestamp("s")),
        "more": pa.array([[1], [2]]),
        "text": TEXTS,
        "label": LABELLED,
    }
    assert table(tmp_path / "a.parquet", columns).columns["text"] == TEXTS


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    twice = pa.table([TEXTS, TEXTS, LABELLED, LABELLED], ["text", "x", "label", "x"])
    parquet.write_table(twice, tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet", COLUMNS, LABELS).columns["text"] == TEXTS
    parquet.write_table(
        twice.rename_columns(["text", "text", "label", "x"]), tmp_path / "a.parquet"
    )
    with pytest.raises(InputError, match="there are 2 columns 'text'"):
        read_table(tmp_path / "a.parquet", COLUMNS, LABELS)


def test_a_measurement_may_be_of_any_type_of_number(tmp_path: Path) -> None:
    columns = {"rate": pa.array([Decimal("1.5"), Decimal(2)]), "on": pa.array([True, False])}
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    kinds = {"rate": Kind.NUMBER, "on": Kind.NUMBER}
    read = read_table(tmp_path / "a.parquet", kinds, ())
    assert read.columns == {"rate": [1.5, 2.0], "on": [1.0, 0.0]}
