"""What exact rows cost: a step's gradients, against batches padded to their longest record.

    python -m tests.benchmarks.exact_rows --texts banking77/train.csv:text medquad.jsonl:question

The peer is what version 0.1 did: records sorted by length, cut by a token budget, padded to the
longest of the batch. Both run in turn in one process, one thread, on the same random samples; a
figure is the median over the repeats of the ratio of process CPU times. ``padding`` and
``dummies`` are shares of the tokens that are computed.
"""

import argparse
import json
import statistics
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dpbitfit.data.tables import read_columns
from dpbitfit.engine.batches import filled, micro_batches
from dpbitfit.engine.gradients import PerRecordGradients
from dpbitfit.engine.training import gradient_rows
from dpbitfit.tasks.text_classification.records import TextRecords
from dpbitfit.tasks.text_classification.task import TextClassification

from ..support.tasks import load_text, text_table

TOKEN_BUDGET = 4096


def sorted_batches(sample: NDArray[np.int64], tokens: NDArray[np.int64]) -> list[list[int]]:
    """Records by length, as many as the budget holds at the longest one's length."""
    batches: list[list[int]] = [[]]
    for record in sorted(sample.tolist(), key=lambda r: int(tokens[r])):
        if batches[-1] and tokens[record] * (len(batches[-1]) + 1) > TOKEN_BUDGET:
            batches.append([])
        batches[-1].append(record)
    return batches


def padded_to_longest(
    task: TextClassification, records: TextRecords, batch: list[int]
) -> torch.Tensor:
    """Losses [B] of records of any lengths."""
    longest = max(len(records.tokens[i]) for i in batch)
    ids = torch.zeros((len(batch), longest), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, record in enumerate(batch):
        found = torch.tensor(records.tokens[record])
        ids[row, : len(found)], mask[row, : len(found)] = found, 1
    logits = task.model(input_ids=ids, attention_mask=mask)
    return torch.nn.functional.cross_entropy(logits, records.labels[batch], reduction="none")


def measure(
    task: TextClassification, texts: list[str], sampled: int, repeats: int
) -> dict[str, float]:
    labels = np.arange(len(texts), dtype=np.int64) % len(task.labels)
    records = task.records(text_table(texts, labels))
    tokens = np.array([len(ids) for ids in records.tokens])
    generator = np.random.default_rng(0)
    ratios, shapes = [], []
    with PerRecordGradients(task.model, task.layout) as recorder:
        for repeat in range(repeats + 1):
            sample = generator.choice(len(texts), min(sampled, len(texts)), replace=False)
            began = time.process_time()
            for _ in gradient_rows(task.model, recorder, records, sorted(sample), TOKEN_BUDGET):
                pass
            middle = time.process_time()
            for batch in sorted_batches(sample, tokens):
                loss = partial(padded_to_longest, task, records, batch)
                recorder.rows(loss, len(batch))
            if repeat:  # the first one warms up
                ratios.append((middle - began) / (time.process_time() - middle))
            rows = [
                (
                    len(batch),
                    len(filled(batch, task.canonical_rows)),
                    int(records.lengths[batch[0]]),
                )
                for batch in micro_batches(
                    sorted(sample), records.lengths, task.canonical_rows, TOKEN_BUDGET
                )
            ]
            computed = sum(full * length for _, full, length in rows)
            real = sum(held * length for held, _, length in rows)
            shapes.append((1 - tokens[sample].sum() / real, 1 - real / computed, len(rows)))
    padding, dummies, batches = np.mean(shapes, axis=0)
    return {
        "sampled": len(sample),
        "canonical_rows": task.canonical_rows,
        "time_ratio": statistics.median(ratios),
        "padding": padding,
        "dummies": dummies,
        "micro_batches": batches,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", nargs="+", required=True, metavar="FILE:COLUMN")
    parser.add_argument("--sampled", nargs="+", type=int, default=[500, 2000])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    task = load_text("minilm", [f"kind {number}" for number in range(77)], "labels")
    results = []
    print(f"{'texts':24}{'sampled':>8}{'time':>7}{'padding':>9}{'dummies':>9}{'batches':>9}")
    for source in options.texts:
        file, _, column = source.rpartition(":")
        texts = [str(text) for text in read_columns(file, [column])[column]]
        for sampled in options.sampled:
            found = measure(task, texts, sampled, options.repeats)
            results.append({"texts": Path(file).name, **found})
            print(
                f"{Path(file).name:24}{found['sampled']:8}{found['time_ratio']:7.2f}"
                f"{found['padding']:9.1%}{found['dummies']:9.1%}{found['micro_batches']:9.1f}",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
