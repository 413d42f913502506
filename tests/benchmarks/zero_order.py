"""Memory and time of one step of DPZero, against a forward pass and a gradient of each record.

    python -m tests.benchmarks.zero_order --json zero_order.json
    python -m tests.benchmarks.zero_order --models gpt2-large --directions 1 --repeats 2

One process, in turn, process CPU times, or a clock's on a GPU; a figure is the median over the
repeats of the ratio to a forward pass in the same repeat. Memory is the allocator's peak above
the model's own. A step of K directions is 2 K forward passes, of which nothing is kept: it should
take at most 1.05 of their memory.
"""

import argparse
import statistics
import time
from functools import partial
from pathlib import Path

import torch

from dpbitfit.engine import devices
from dpbitfit.engine.biases import select_biases
from dpbitfit.engine.directions import Directions
from dpbitfit.engine.gradients import PerRecordGradients
from dpbitfit.engine.zero_order import LossDifferences

from . import shapes
from .engine import Cell, Figures, run
from .measuring import Step, in_turn, median_ratio, peak
from .peers import losses

LARGEST_RATIO = 1.05
BASE, ZERO, GRADIENTS = "forward pass", "DPZero", "bias gradients"
SIZES = {"minilm": ((32, 32), (16, 128)), "gpt2-large": ((2, 128), (1, 512))}


def steps(cell: Cell, directions: int, device: torch.device) -> dict[str, Step]:
    """A forward pass, and one micro-batch of each estimator, on the same records and weights."""
    model = shapes.build(cell.model, device)
    inputs, labels = shapes.batch(cell.model, cell.records, cell.tokens, device)
    layout = select_biases(model)
    compute = partial(losses, model, inputs, labels)

    def forward() -> None:
        with torch.no_grad():
            compute()

    def zero() -> None:
        LossDifferences(model, layout, Directions(bytes(32)), directions, 1e-3).rows(
            compute, cell.records
        )

    def gradients() -> None:
        with PerRecordGradients(model, layout) as attached:
            attached.rows(compute, cell.records)

    return {BASE: forward, ZERO: zero, GRADIENTS: gradients}


def measure(cell: Cell, options: argparse.Namespace, until: float) -> Figures:
    """Of each: milliseconds for a record and the peak in megabytes, and both over the base's."""
    chosen = steps(cell, options.directions, options.device)
    times, failed = in_turn(chosen, options.device, options.repeats, until)
    peaks = {name: peak(chosen[name], options.device) for name in times}
    figures: Figures = {name: {"failed": why} for name, why in failed.items()}
    for name, taken in times.items():
        figures[name] = {
            "milliseconds": 1e3 * statistics.median(taken) / cell.records,
            "time_ratio": median_ratio(taken, times[BASE]),
            "peak_megabytes": peaks[name] / 1e6,
            "peak_ratio": peaks[name] / peaks[BASE],
        }
    if peaks[ZERO] > LARGEST_RATIO * peaks[BASE]:
        raise SystemExit(f"{cell.name}: a step takes over {LARGEST_RATIO} of a forward pass")
    return figures


def main() -> None:
    """Measure the cells that the file does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=SIZES, default=["minilm"])
    parser.add_argument("--device", type=devices.choose, default="auto")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--directions", type=int, default=4)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cells = [Cell("batch", name, *size) for name in options.models for size in SIZES[name]]
    machine = f"{devices.describe(options.device)}, K = {options.directions}"
    run(cells, partial(measure, options=options), machine, time.monotonic() + 1e9, options.json)


if __name__ == "__main__":
    main()
