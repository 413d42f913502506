"""Columns that were not asked for are never in memory, whatever the format."""

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from dpbitfit.data.tables import read_columns

ROWS, SPARE = 4000, 200
WORDS = "some words that are not read"
# Kept while the process lives: Arrow's threads may free into a pool after the read has ended.
POOLS: list[pa.MemoryPool] = []


def write(path: Path, spare: int) -> Path:
    names = ["text", *(f"c{number}" for number in range(spare))]
    values = ["a text", *[WORDS] * spare]
    if path.suffix == ".csv":
        path.write_text("\n".join([",".join(names), *[",".join(values)] * ROWS]))
    elif path.suffix == ".jsonl":
        line = json.dumps(dict(zip(names, values, strict=True)))
        path.write_text("\n".join([line] * ROWS))
    else:
        columns = {name: [value] * ROWS for name, value in zip(names, values, strict=True)}
        parquet.write_table(pa.table(columns), path)
    return path


def peak(act: Callable[[], object]) -> int:
    """Bytes that Arrow and Python held at most."""
    usual = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(usual)
    POOLS.append(pool)
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        act()
        return int(pool.max_memory()) + tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(usual)


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_spare_columns_cost_no_memory(tmp_path: Path, ending: str) -> None:
    narrow, wide = (write(tmp_path / f"{n}{ending}", n) for n in (0, SPARE))
    for file in (narrow, wide):
        assert read_columns(file, ["text"]) == {"text": ["a text"] * ROWS}
    spare = ROWS * SPARE * len(WORDS)
    more = peak(lambda: read_columns(wide, ["text"])) - peak(lambda: read_columns(narrow, ["text"]))
    assert more < spare / 2
