"""Files are read as they are; what is wrong is named by column and row, never by content."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from dpbitfit.data.columns import Kind
from dpbitfit.data.partition import count_units, natural_sites, split
from dpbitfit.data.tables import Table, read_columns, read_table
from dpbitfit.errors import InputError
from dpbitfit.tasks.text_classification.settings import COLUMNS

LABELS = ("card", "loan", "1")
ROWS = [
    {"text": "my card, it is gone", "label": "card", "who": "ann"},
    {"text": 'a "loan"\nof two lines', "label": "loan", "who": "bob"},
    {"text": "42", "label": "1", "who": "ann"},
]
SECRET = "sensitive words"


def read_texts(
    source: str | Path, unit_column: str | None = None, site_column: str | None = None
) -> Table:
    """Labelled texts, as text classification reads them."""
    return read_table(source, COLUMNS, LABELS, None, unit_column, site_column)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        parquet.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.fixture(params=[".csv", ".jsonl", ".parquet"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / f"data{request.param}"


def test_every_format_gives_the_same_examples(path: Path) -> None:
    examples = read_texts(write(path, ROWS), "who", "who")
    assert examples.columns["text"] == [row["text"] for row in ROWS]
    assert examples.columns["label"] == [0, 1, 2]
    assert examples.units == examples.sites == ["ann", "bob", "ann"]
    taken = examples.take(np.array([2, 0]))
    assert (len(taken), taken.columns["text"][0], taken.units) == (2, "42", ["ann", "ann"])


def load_rows() -> dict[str, list[str]]:
    return {"text": ["a", "b"], "label": ["card", "loan"]}


def test_a_function_may_give_the_rows() -> None:
    assert read_texts(f"{__name__}:load_rows").columns["text"] == ["a", "b"]
    with pytest.raises(InputError, match="no such function"):
        read_texts(f"{__name__}:nothing")
    with pytest.raises(InputError, match="no such function"):
        read_texts("no_such_module_at_all:rows")


def test_a_missing_column_is_named_with_those_that_the_format_declares(path: Path) -> None:
    with pytest.raises(InputError, match=r"no .*'message'") as caught:
        read_columns(write(path, ROWS), ["message"])
    assert ("'label'" in str(caught.value)) == (path.suffix == ".parquet")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"text": ""}, "row 2: column 'text' is empty"),
        ({"text": "   "}, "row 2: column 'text' is empty"),
        ({"text": "NaN"}, "row 2: column 'text' is empty or NaN"),
        ({"label": ""}, "row 2: column 'label' is empty"),
        ({"label": "mortgage"}, "row 2: its label is not in the public label set"),
        ({"who": ""}, "row 2: column 'who' is empty"),
    ],
)
def test_a_bad_row_is_named_by_its_number_only(
    path: Path, change: dict[str, str], says: str
) -> None:
    rows = [ROWS[0], {**ROWS[1], "text": SECRET, **change}, ROWS[2]]
    with pytest.raises(InputError, match=says) as caught:
        read_texts(write(path, rows), "who")
    assert SECRET not in str(caught.value)
    assert "mortgage" not in str(caught.value)


def test_nan_and_numbers_are_no_text(tmp_path: Path) -> None:
    nan = write(tmp_path / "a.parquet", [{"text": float("nan"), "label": "card"}])
    with pytest.raises(InputError, match="NaN"):
        read_texts(nan)
    number = write(tmp_path / "b.parquet", [{"text": 4.5, "label": "card"}])
    with pytest.raises(InputError, match="numbers, not text"):
        read_texts(number)


def test_numbers_are_read_from_every_format(path: Path) -> None:
    rows = [{"pulse": 71, "who": "ann"}, {"pulse": 80.5, "who": "bob"}, {"pulse": -1, "who": "ann"}]
    table = read_table(write(path, rows), {"rate": Kind.NUMBER}, (), {"rate": "pulse"}, "who")
    assert table.columns == {"rate": [71.0, 80.5, -1.0]}
    assert [unit.tolist() for unit in table.unit_records()] == [[0, 2], [1]]
    assert [unit.tolist() for unit in replace(table, units=None).unit_records()] == [[0], [1], [2]]


@pytest.mark.parametrize("value", ["", "many", "nan", "inf", None, float("-inf"), [1], SECRET])
def test_what_is_no_finite_number_is_named_by_its_row(
    value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.rows_of_a_loader", lambda: {"n": [1, value]}, raising=False)
    with pytest.raises(InputError, match="row 2: column 'n' is not a finite number") as caught:
        read_table(f"{__name__}:rows_of_a_loader", {"n": Kind.NUMBER}, ())
    assert SECRET not in str(caught.value)


def test_text_that_is_no_unicode_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No tokenizer would read it: a round would fail at that record."""
    rows = {"text": ["fine", "half a pair: \ud800"], "label": ["card", "card"]}
    monkeypatch.setattr(f"{__name__}.rows_of_a_loader", lambda: rows, raising=False)
    with pytest.raises(InputError, match="row 2: column 'text' is no Unicode text"):
        read_texts(f"{__name__}:rows_of_a_loader")
    bytes_of = pa.array([SECRET.encode() + b"\xff"]).buffers()
    column = pa.Array.from_buffers(pa.string(), 1, bytes_of)
    parquet.write_table(pa.table({"text": column, "label": ["card"]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="cannot be read: it is no Unicode text") as caught:
        read_texts(tmp_path / "a.parquet")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("name", ["data.csv", "data.jsonl", "data.parquet", "data.xls", "data"])
def test_what_cannot_be_read_says_so_without_quoting_it(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=name):
        read_columns(tmp_path / name, ["text"])
    (tmp_path / name).write_bytes(SECRET.encode() + b'\x00{"text": \xff')
    with pytest.raises(InputError) as caught:
        read_columns(tmp_path / name, ["text"])
    assert SECRET not in str(caught.value).replace(str(tmp_path), "")


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("text,label\n")
    with pytest.raises(InputError, match="no records"):
        read_columns(tmp_path / "data.csv", ["text"])


NO_TEXT = ("nan", "nat", "<na>")  # how others write that there is none
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1)


@given(
    texts=st.lists(
        TEXTS.filter(lambda t: t.strip() and t.strip().lower() not in NO_TEXT), min_size=1
    )
)
def test_any_text_survives_a_round_through_jsonl(
    texts: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("rows") / "data.jsonl"
    write(path, [{"text": text, "label": "card"} for text in texts])
    assert read_texts(path).columns["text"] == [text.strip() for text in texts]


SPELLINGS = ("Müller", "Mu\u0308ller", " Müller", "Mü\u200bller", "\ufeffMüller\u00a0")


def test_a_person_is_one_unit_and_a_site_one_site_however_they_are_written(path: Path) -> None:
    """Else a person is protected as each of several, and the loss of each is too small a figure."""
    rows = [{"text": f"t{n}", "label": "card", "who": who} for n, who in enumerate(SPELLINGS)]
    rows += [{**rows[0], "who": who} for who in ("Ann  Bo", "Ann Bo", "müller")]
    table = read_texts(write(path, rows), "who", "who")
    assert [unit.tolist() for unit in table.unit_records()] == [[0, 1, 2, 3, 4], [5, 6], [7]]
    assert count_units(table) == 3
    assert list(natural_sites(table, table.take([]))) == ["Ann Bo", "Müller", "müller"]
    whole = table.take([0, 1, 2, 3, 4, 7] * 2)
    for seed in range(6):
        sides = [part for part in split(whole, 2, 0, seed) if "Müller" in (part.units or ())]
        assert [(part.units or []).count("Müller") for part in sides] == [10]
