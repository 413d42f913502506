"""Excel workbooks."""

from pathlib import Path

import pytest

from dpbitfit.data.tables import Table, read_table
from dpbitfit.errors import InputError
from dpbitfit.tasks.text_classification.settings import COLUMNS

from ....support.spreadsheets import Date, Rows, write_xlsx

LABELS = ("card", "loan", "1", "NA")
HEADER = ["text", "label", "who"]
SECRET = "sensitive words"


def table(path: Path, **sheets: Rows) -> Table:
    return read_table(write_xlsx(path, sheets), COLUMNS, LABELS, unit_column="who")


def test_a_sheet_is_read_with_its_numbers_as_names(tmp_path: Path) -> None:
    rows = [
        [*HEADER, "seen"],
        ["Müller\nhustet", "card", 7, Date(44000)],
        ["NA", "NA", "P8", Date(-5)],
        ["c", 1, 7.0, True],
        [None, None, None, None],
    ]
    read = table(tmp_path / "a.xlsx", first=rows)
    assert read.columns == {"text": ["Müller\nhustet", "NA", "c"], "label": [0, 3, 2]}
    assert read.units == ["7", "P8", "7"]


def test_the_sheet_is_the_one_that_has_the_columns(tmp_path: Path) -> None:
    notes, records = [["about"], ["this file"]], [HEADER, ["a", "card", "p"]]
    assert len(table(tmp_path / "a.xlsx", notes=notes, records=records, empty=[])) == 1
    with pytest.raises(InputError, match="2 sheets have these columns"):
        table(tmp_path / "a.xlsx", old=records, new=records)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([], "is empty"),
        ([HEADER], "there are no records"),
        ([[SECRET, "card", "p"], ["b", "card", "p"]], "no column 'text' among the 3 that it has"),
        ([[*HEADER, "text"], ["a", "card", "p", "b"]], "there are 2 columns 'text'"),
        ([HEADER, ["a", "card", None]], "row 1: column 'who' is empty"),
        ([HEADER, ["a", "card", "p"], [5, "card", "p"]], "row 2: column 'text' holds numbers"),
        ([HEADER, ["a", "card", Date(44000)]], "row 1: column 'who' holds .* type date"),
        ([HEADER, ["a", True, "p"]], "row 1: column 'label' holds .* type bool"),
        ([HEADER, ["a", "card", 12345678901234567890]], "column 'who' .* too long to be exact"),
    ],
)
def test_what_is_wrong_is_said_by_its_kind(tmp_path: Path, rows: Rows, reason: str) -> None:
    with pytest.raises(InputError, match=reason) as caught:
        table(tmp_path / "a.xlsx", sheet=rows)
    assert SECRET not in str(caught.value)


def test_what_is_no_workbook_is_damaged(tmp_path: Path) -> None:
    for content in (b"", b"PK", SECRET.encode()):
        (tmp_path / "a.xlsx").write_bytes(content)
        with pytest.raises(InputError, match=r"a\.xlsx: cannot be read: it is damaged"):
            read_table(tmp_path / "a.xlsx", COLUMNS, LABELS)
    with pytest.raises(InputError, match="cannot be read"):
        read_table(tmp_path / "none.xlsx", COLUMNS, LABELS)
