"""How a whole step grows with the sampled records and their tokens: in proportion, and no faster.

    python -m tests.benchmarks.growth --json growth.json

Clipping, sum, noise and optimizer included, on made-up texts of one length, in turn in one process.
"""

import argparse
import json
import statistics
from pathlib import Path

import numpy as np
import torch

from dpbitfit.engine import devices

from .measuring import in_turn
from .peers import OURS
from .real_text import MOST_TOKENS, Texts, texts, whole_steps
from .shapes import CLASSES, build

RECORDS, TOKENS = 256, 32
GROWING = [(count, TOKENS) for count in (64, 256, 1024)] + [
    (RECORDS, tokens) for tokens in (8, 16, 64, MOST_TOKENS)
]


def main() -> None:
    """Measure all, and print and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", type=devices.choose, default="auto")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, draw = build("minilm", options.device), np.random.default_rng(0)
    canonical = texts([[1] * TOKENS] * RECORDS, model).canonical_rows
    steps = {}
    for count, tokens in GROWING:
        made = [draw.integers(1000, 20_000, tokens).tolist() for _ in range(count)]
        labels = torch.arange(count, device=options.device) % CLASSES
        records = Texts(made, labels, canonical)
        steps[f"{count} x {tokens}"] = whole_steps(model, records, count)[OURS]()
    times, _ = in_turn(steps, options.device, options.repeats, float("inf"))
    seconds = {name: statistics.median(taken) for name, taken in times.items()}
    base = seconds[f"{RECORDS} x {TOKENS}"] / (RECORDS * TOKENS)
    figures = {}
    print(devices.describe(options.device))
    print("records x tokens   seconds   of a token, against 256 x 32")
    for (count, tokens), (name, taken) in zip(GROWING, seconds.items(), strict=True):
        figures[name] = {"seconds": taken, "ratio": taken / (count * tokens) / base}
        print(f"{name:16}  {taken:8.2f}   {figures[name]['ratio']:.2f}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
