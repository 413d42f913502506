"""One data set, written by five kinds of program, gives a run the same records."""

import csv
import gzip
import io
import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from dpbitfit.data.run_data import RunData
from dpbitfit.data.tables import Table
from dpbitfit.tasks.text_classification.settings import COLUMNS

from ...support.spreadsheets import write_xlsx

Columns = dict[str, list[str]]


def delimited(columns: Columns, separator: str) -> str:
    file = io.StringIO()
    rows = csv.writer(file, delimiter=separator, quoting=csv.QUOTE_ALL)
    rows.writerow(columns)
    rows.writerows(zip(*columns.values(), strict=True))
    return file.getvalue()


def rows_of(columns: Columns) -> list[tuple[str, ...]]:
    return list(zip(*columns.values(), strict=True))


def excel_csv(path: Path, columns: Columns) -> None:
    path.write_bytes(("sep=;\r\n" + delimited(columns, ";")).encode("utf-16"))


def compressed(path: Path, columns: Columns) -> None:
    path.write_bytes(gzip.compress(delimited(columns, "\t").encode("utf-8-sig")))


def spark(path: Path, columns: Columns) -> None:
    spare = {"seen": pa.array([2**62] * len(columns["text"]), pa.timestamp("ns"))}
    texts = {name: pa.array(values, pa.binary()) for name, values in columns.items()}
    parquet.write_table(pa.table({**spare, **texts}), path)


def database(path: Path, columns: Columns) -> None:
    rows = (dict(zip(columns, row, strict=True)) for row in rows_of(columns))
    # Keys of another order, and ids that are numbers where they can be.
    lines = ({"at": 0, **dict(reversed(row.items())), "who": _id(row["who"])} for row in rows)
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8-sig")


def _id(value: str) -> int | str:
    return int(value) if value.isdigit() else f" {unicodedata.normalize('NFD', value)}\u200b"


def excel(path: Path, columns: Columns) -> None:
    write_xlsx(path, {"about": [["a note"]], "data": [list(columns), *map(list, rows_of(columns))]})


WAYS: dict[str, Callable[[Path, Columns], None]] = {
    "utf-16.csv": excel_csv,
    "a.tsv.gz": compressed,
    "binary.parquet": spark,
    "mark.jsonl": database,
    "a.xlsx": excel,
}


def records(config: dict[str, Any], data: Path, labels: Path) -> tuple[dict[str, Table], Table]:
    """What each site of a run holds, and what is held out."""
    paths = {"data": str(data), "labels": str(labels), "unit-column": "who"}
    run = RunData.read({**config, **paths})
    return run.sites(COLUMNS, 3, 1.0), run.test(COLUMNS)


def check(config: dict[str, Any], folder: Path, columns: Columns, labels: list[str]) -> None:
    plain, names = folder / "plain.csv", folder / "labels.txt"
    plain.write_text(delimited(columns, ","), encoding="utf-8", newline="")
    names.write_text("\n".join(labels), encoding="utf-8")
    expected = records(config, plain, names)
    assert sum(map(len, (*expected[0].values(), expected[1]))) == len(columns["text"])
    names = folder / "LABELS.TXT"
    names.write_text("".join(f"{label} \r\n" for label in labels), encoding="utf-16", newline="")
    for name, write in WAYS.items():
        write(folder / name, columns)
        assert records(config, folder / name, names) == expected, name


def test_five_ways_to_write_the_demos_corpus(
    corpus: Path, project_config: dict[str, Any], tmp_path: Path
) -> None:
    with corpus.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = {
        "text": [f'{row["text"]}; Größe, "ß"\nÄrger\tNA' for row in rows],
        "label": [row["label"] for row in rows],
        "who": [row["customer"].replace("customer-", "é ") for row in rows],
    }
    labels = corpus.with_suffix(".labels.txt").read_text(encoding="utf-8").splitlines()
    check(project_config, tmp_path, columns, labels)


def test_five_ways_to_write_banking77(
    banking77: Path, project_config: dict[str, Any], tmp_path: Path
) -> None:
    with (banking77 / "train.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = {
        "text": [row["text"] for row in rows],
        "label": [row["category"] for row in rows],
        "who": [str(number % 3000) for number in range(len(rows))],
    }
    labels = json.loads((banking77 / "categories.json").read_text())
    check(project_config, tmp_path, columns, labels)
