"""Memory and time of one step of DPZero, against a forward pass and a gradient of each record.

    python -m tests.benchmarks.zero_order --repeats 5 --json zero_order.json

One process, interleaved, process CPU times; a figure is the median over the repeats. Memory is
the allocator's peak above the model's own, from the profiler. A step of K directions is 2 K
forward passes, of which nothing is kept: it should take at most 1.05 of their memory.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from dpbitfit.engine.biases import select_biases
from dpbitfit.engine.directions import Directions
from dpbitfit.engine.gradients import PerRecordGradients
from dpbitfit.engine.zero_order import LossDifferences

from .gradients import CLASSES, Classifier, losses, peak

LARGEST_RATIO = 1.05


def steps(records: int, tokens: int, directions: int) -> dict[str, Callable[[], object]]:
    """A forward pass, and one micro-batch of each estimator, on the same records."""
    ids, labels = torch.randint(1000, 20000, (records, tokens)), torch.randint(CLASSES, (records,))
    plain, ours, exact = (Classifier().eval() for _ in range(3))
    layout = select_biases(ours)
    differences = LossDifferences(ours, layout, Directions(bytes(32)), directions, 1e-3)
    gradients = PerRecordGradients(exact, layout).__enter__()

    def forward() -> None:
        with torch.no_grad():
            losses(plain, ids, labels)

    return {
        "forward pass": forward,
        "DPZero": partial(differences.rows, lambda: losses(ours, ids, labels), records),
        "bias gradients": partial(gradients.rows, lambda: losses(exact, ids, labels), records),
    }


def measure(
    records: int, tokens: int, directions: int, repeats: int
) -> dict[str, dict[str, float]]:
    """Of each: the peak in megabytes and over that of a forward pass, and so the time."""
    chosen = steps(records, tokens, directions)
    times: dict[str, list[float]] = {name: [] for name in chosen}
    for step in chosen.values():
        step()
    for _ in range(repeats):
        for name, step in chosen.items():
            began = time.process_time()
            step()
            times[name].append(time.process_time() - began)
    peaks = {name: peak(lambda step=step: step()) for name, step in chosen.items()}  # type: ignore[misc]
    base = statistics.median(times["forward pass"])
    return {
        name: {
            "peak_megabytes": peaks[name] / 1e6,
            "peak_ratio": peaks[name] / peaks["forward pass"],
            "time_ratio": statistics.median(times[name]) / base,
        }
        for name in chosen
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--directions", type=int, default=4)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    for records, tokens in ((32, 32), (16, 128)):
        cell = f"B{records} T{tokens} K{options.directions}"
        results[cell] = measure(records, tokens, options.directions, options.repeats)
        print(f"\n{cell:20}{'MB':>9}{'peak':>8}{'time':>8}")
        for name, figures in results[cell].items():
            print(
                f"{name:20}{figures['peak_megabytes']:9.1f}{figures['peak_ratio']:8.3f}"
                f"{figures['time_ratio']:8.2f}"
            )
        if results[cell]["DPZero"]["peak_ratio"] > LARGEST_RATIO:
            raise SystemExit(f"{cell}: a step takes more than {LARGEST_RATIO} of a forward pass")
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
