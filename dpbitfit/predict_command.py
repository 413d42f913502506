"""``dpbitfit predict``: the labels that a trained model gives to the texts of a file."""

import csv
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from dpbitfit.data.tables import read_columns
from dpbitfit.errors import InputError


def predict(
    model: Annotated[str, typer.Option(help="A run's OUT/model or OUT/adapter.")],
    data: Annotated[str, typer.Option(help="Texts: a file as for training, or module:function.")],
    base: Annotated[
        str, typer.Option(help="Of an adapter: its base model, a folder, hub id, or minilm.")
    ] = "",
    text_column: Annotated[str, typer.Option(help="Column of the text.")] = "text",
    out: Annotated[
        Path | None, typer.Option(help="CSV file to write; without it, standard output.")
    ] = None,
) -> None:
    """Write a CSV with row, label and score (its probability) for each text of a file."""
    texts = read_columns(data, [text_column])[text_column]
    from dpbitfit.predict import load  # torch, which other commands do not need

    predictions = load(model, base).predict(texts)
    try:
        target = out.open("w", newline="", encoding="utf-8") if out else nullcontext(sys.stdout)
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror}") from error
    with target as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("row", "label", "score"))
        for row, (label, score) in enumerate(predictions, start=1):
            writer.writerow((row, label, f"{score:.6f}"))
