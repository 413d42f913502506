"""JSON lines as databases write them."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from dpbitfit.data.tables import Table, read_table
from dpbitfit.errors import InputError
from dpbitfit.tasks.text_classification.settings import COLUMNS

LABELS = ("card", "loan", "1")
SECRET = "sensitive words"
ROW = {"text": "Müller hustet", "label": "card", "who": "p"}


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def table(path: Path, content: bytes | str) -> Table:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(path, COLUMNS, LABELS, unit_column="who")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", lines(ROW).encode("utf-8-sig")),
        ("a.ndjson", lines(ROW).encode("utf-16")),
        ("a.jsonl.gz", gzip.compress(lines(ROW).encode(), mtime=0)),
        ("a.JSONL", lines(ROW).replace("\n", "\r\n\r\n").encode()),
        ("a.jsonl", lines({**ROW, "text": "Müller\u2028hustet"}).encode()),
        ("a.jsonl", lines({"text\u200b ": ROW["text"], "label": "card", "who": "p"}).encode()),
    ],
)
def test_an_ordinary_file_is_read(tmp_path: Path, name: str, content: bytes) -> None:
    read = table(tmp_path / name, content)
    assert (read.columns["label"], read.units) == ([0], ["p"])
    assert [text.split() for text in read.columns["text"]] == [["Müller", "hustet"]]


def test_an_id_may_be_a_number_in_one_line_and_a_text_in_the_next(tmp_path: Path) -> None:
    people: list[Any] = [7, "7", 7.0, "P8", 2**70]
    read = table(tmp_path / "a.jsonl", lines(*({**ROW, "who": who} for who in people)))
    assert read.units == ["7", "7", "7", "P8", str(2**70)]
    labels: list[Any] = [1, "1", 1.0]
    read = table(tmp_path / "a.jsonl", lines(*({**ROW, "label": label} for label in labels)))
    assert read.columns["label"] == [2, 2, 2]


def test_a_line_may_be_of_any_length(tmp_path: Path) -> None:
    read = table(tmp_path / "a.jsonl", lines(ROW, {**ROW, "text": "x" * 5_000_000}, ROW))
    assert [len(text) for text in read.columns["text"]] == [13, 5_000_000, 13]


@pytest.mark.parametrize(
    "other",
    [
        ["0000-00-00", "2024-01-01T00:00:00.123456789Z", "99999-12-31"],
        [1, "one", None],
        [{"a": [1]}, [2], 3.5],
        [10**30, -1, 1e300],
    ],
)
def test_keys_that_were_not_asked_for_may_hold_anything(tmp_path: Path, other: list[Any]) -> None:
    read = table(tmp_path / "a.jsonl", lines(*({"seen": value, **ROW} for value in other)))
    assert len(read) == 3
    latin = '{"note": "übel", "text": "t", "label": "card", "who": "p"}\n'.encode("latin-1")
    assert table(tmp_path / "a.jsonl", latin).columns["text"] == ["t"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lines(ROW).encode("latin-1"), "row 1: column 'text' is no Unicode text: convert it"),
        (lines(ROW) + f'{{"text": "{SECRET}"\n', "line 2 is no JSON"),
        (f'[{{"text": "{SECRET}"}}]\n', "line 1 is no JSON object"),
        (lines(ROW) + f'"{SECRET}"\n', "line 2 is no JSON object"),
        (lines(ROW) + '{"who": ' + "[" * 100_000, "line 2 is no JSON"),
        ('{"text": "a", "label": "card", "who": "p", "text": "b"}', "line 1 has 'text' more than"),
        (lines({SECRET: 1, "text": "a"}), "no line has a 'label'"),
        (lines(ROW, {"text": "b", "label": "card"}), "row 2: column 'who' is empty"),
        (lines(ROW, {**ROW, "label": None}), "row 2: column 'label' is empty"),
        (lines({**ROW, "who": float("nan")}), "row 1: column 'who' is empty or NaN"),
        (lines({**ROW, "text": ["a", "b"]}), "row 1: column 'text' holds .* type list"),
        (lines(ROW, {**ROW, "label": True}), "row 2: column 'label' holds .* type bool"),
        (lines(ROW, {**ROW, "who": {"id": 1}}), "row 2: column 'who' holds .* type dict"),
        (lines(ROW, {**ROW, "who": 2.0**60}), "row 2: column 'who' .* too long to be exact"),
        ("", "there are no records"),
    ],
)
def test_what_is_wrong_is_said_by_its_kind(
    tmp_path: Path, content: bytes | str, reason: str
) -> None:
    with pytest.raises(InputError, match=reason) as caught:
        table(tmp_path / "a.jsonl", content)
    assert SECRET not in str(caught.value)
