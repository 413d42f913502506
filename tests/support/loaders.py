"""Records for a guard that is served by a test; each reading leaves a line in a file."""

import csv
import os
from pathlib import Path


def letters() -> dict[str, list[str]]:
    return _read("train")


def held_out() -> dict[str, list[str]]:
    return _read("evaluate")


def many_held_out() -> dict[str, list[str]]:
    """So many that an evaluation takes seconds."""
    return {name: values * 300 for name, values in held_out().items()}


def _read(part: str) -> dict[str, list[str]]:
    with Path(os.environ["DPBITFIT_TOUCHED"]).open("a") as file:
        print(part, file=file)
    with Path(os.environ["DPBITFIT_LETTERS"]).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    half = len(rows) // 2
    chosen = rows[:half] if part == "train" else rows[half:]
    chosen[0]["text"] *= 200  # more than any model here reads
    return {name: [row[name] for row in chosen] for name in ("text", "label")}
