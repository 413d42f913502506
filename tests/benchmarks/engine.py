"""The engine against what people use today: time for an example, memory, and whole steps.

    python -m tests.benchmarks.engine --texts banking77/train.csv:text --json engine.json
    python -m tests.benchmarks.engine --minutes 6 --json gpu.json       # on a GPU, what fits in

On a GPU where there is one. All methods of a cell run in turn in one process; a figure is the
median over the repeats of the ratio to plain bias tuning in the same repeat. Times are the
process's CPU times, or a clock's on a GPU; memory is the allocator's peak above what a method
holds between steps. Cells are written as they end; those of the file are not measured again.
"""

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

from dpbitfit.engine import devices

from . import shapes
from .measuring import Step, free_memory, in_turn, median_ratio, peak, reason
from .peers import BASE, LOWER, OURS, methods, row_difference
from .real_text import SORTED, read_tokens, shares, texts, whole_steps

GIBIBYTES = 24  # of a GPU, for the largest batch
LARGEST_TOKENS = 128
Figures = dict[str, dict[str, Any]]  # by method; ``failed`` says why there are none


@dataclass(frozen=True)
class Cell:
    """What is measured: ``batch`` (so many records and tokens), ``texts``, ``largest``, ``cpu``."""

    kind: str
    model: str
    records: int = 0
    tokens: int = 0

    @property
    def name(self) -> str:
        size = f" B{self.records} T{self.tokens}" if self.kind == "batch" else ""
        return f"{self.model} {self.kind}{size}"


ON_CPU = [
    Cell("texts", "minilm"),
    *(Cell("batch", "minilm", *size) for size in ((32, 32), (16, 128), (8, 512), (64, 64))),
]
LARGE = ("roberta-large", "gpt2-large", "vit-large")
ON_GPU = [
    Cell("batch", "roberta-large", 32, 128),
    Cell("texts", "minilm"),
    Cell("texts", "roberta-large"),
    Cell("largest", "roberta-large"),
    Cell("batch", "gpt2-large", 16, 128),
    Cell("batch", "vit-large", 32, 197),
    Cell("cpu", "bert-base"),
    *(Cell("batch", "roberta-large", 8, tokens) for tokens in (64, 256, 1024)),
    Cell("batch", "minilm", 64, 32),
    *(Cell("largest", model) for model in LARGE[1:]),
    *(Cell("batch", "roberta-large", 8, tokens) for tokens in (128, 512)),
    *(Cell("batch", "minilm", *size) for size in ((32, 128), (8, 512))),
]


def measure(cell: Cell, options: argparse.Namespace, until: float) -> Figures:
    """The figures of one cell, by method."""
    device = options.device
    if cell.kind == "cpu":
        return _beside_cpu(cell, options)
    model = shapes.build(cell.model, device)
    if cell.kind == "largest":
        total = torch.cuda.get_device_properties(device).total_memory
        most = GIBIBYTES * 2**30 + torch.cuda.memory_allocated(device)  # beside this model
        torch.cuda.set_per_process_memory_fraction(min(1.0, most / total), device)

        def add(method: Any, records: int) -> None:
            method.add(*shapes.batch(cell.model, records, LARGEST_TOKENS, device))
            method.drop()

        try:
            return {name: _largest(make, add) for name, make in methods(model).items()}
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, device)
    if cell.kind == "batch":
        data = partial(shapes.batch, cell.model, cell.records, cell.tokens, device)
        made = {name: partial(_gradients, make, data) for name, make in methods(model).items()}
        figures = _compare(made, BASE, cell.records, options, until)
        if "time_ratio" in figures.get(LOWER, {}):
            figures[LOWER]["row_difference"] = row_difference(model, *data())
        return figures
    records = texts(options.tokens, model)
    made = whole_steps(model, records, options.sampled)
    figures = _compare(made, SORTED, options.sampled, options, until)
    figures.get(OURS, {}).update(shares(model, records, options.sampled))
    return figures


def _compare(
    made: dict[str, Callable[[], Step]],
    base: str,
    records: int,
    options: argparse.Namespace,
    until: float,
) -> Figures:
    """Time for an example and peak of each method, and their ratios to those of ``base``."""
    wanted = [base, *options.methods]
    made = {name: make for name, make in made.items() if any(part in name for part in wanted)}
    steps, failed = {}, {}
    for name, make in made.items():
        try:
            steps[name] = make()
        except Exception as error:
            failed[name] = reason(error)
    times, later = in_turn(steps, options.device, options.repeats, until)
    # A CPU's peaks come from a profile, which a whole step has no memory for.
    wanted = times if base == BASE or options.device.type != "cpu" else ()
    peaks = {name: peak(steps[name], options.device) for name in wanted}
    figures: Figures = {name: {"failed": why} for name, why in {**failed, **later}.items()}
    for name, taken in times.items():
        figures[name] = {
            "milliseconds": 1e3 * statistics.median(taken) / records,
            "time_ratio": median_ratio(taken, times[base]),
        }
    for name, most in peaks.items():
        figures[name] |= {"peak_megabytes": most / 1e6, "peak_ratio": most / peaks[base]}
    return {name: figures[name] for name in made}


def _gradients(make: Callable[[], Any], data: Callable[[], Any]) -> Step:
    """The clipped gradients of one micro-batch; neither noise nor optimizer."""
    method = make()

    def step() -> None:
        method.add(*data())
        method.drop()

    return step


def _largest(make: Callable[[], Any], add: Callable[[Any, int], None]) -> dict[str, Any]:
    """The largest batch, to an eighth, that a method made anew can ``add``; by doubling."""
    try:
        method, fits, fails = make(), 0, 0
        while not fails or fails - fits > max(1, fits // 8):
            records = (fits + fails) // 2 if fails else 2 * fits or 8
            try:
                add(method, records)
                fits = records
            except torch.OutOfMemoryError:
                fails = records
                method = None  # which may keep what it had computed
                free_memory()
                method = make()
            free_memory()
        return {"records": fits}
    except Exception as error:
        return {"failed": reason(error)}


def _beside_cpu(cell: Cell, options: argparse.Namespace) -> Figures:
    """Ours on the GPU and on a core of the CPU: seconds of a whole step on the same texts."""
    seconds = {}
    for device in (options.device, torch.device("cpu")):
        model = shapes.build(cell.model, device)
        step = whole_steps(model, texts(options.tokens, model), options.sampled)[OURS]()
        step()
        began = time.perf_counter()
        step()  # its sum is read at its end: no work of the device is left
        seconds[str(device)] = time.perf_counter() - began
    least = min(seconds.values())
    return {
        name: {"milliseconds": 1e3 * taken / options.sampled, "time_ratio": taken / least}
        for name, taken in seconds.items()
    }


def show(name: str, figures: Figures) -> None:
    """Print one cell's table."""
    print(f"\n{name:38}{'ms/example':>11}{'time':>8}{'MB':>9}{'peak':>8}")
    for method, row in figures.items():
        if "failed" in row:
            print(f"  {method:36}{row['failed']}")
        elif "records" in row:
            print(f"  {method:36}{row['records']:11} records in {GIBIBYTES} GiB")
        else:
            cells = (
                f"{row['milliseconds']:11.3f}{row['time_ratio']:8.2f}",
                f"{row['peak_megabytes']:9.1f}{row['peak_ratio']:8.2f}"
                if "peak_ratio" in row
                else "",
                f"  {row['padding']:.1%} padding, {row['dummies']:.1%} dummies"
                if "padding" in row
                else "",
                f"  rows differ by up to {row['row_difference']:.1%}"
                if "row_difference" in row
                else "",
            )
            print(f"  {method:36}" + "".join(cells))
    print(end="", flush=True)


def main() -> None:
    """Measure the cells that the file does not hold, while there is time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", type=devices.choose, default="auto")
    parser.add_argument("--texts", default="", metavar="FILE:COLUMN", help="else made-up ones")
    parser.add_argument("--sampled", type=int, default=500, help="records of a whole step")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--cells", nargs="+", default=[""], help="those whose name holds one")
    parser.add_argument("--methods", nargs="+", default=[""], help="beside the base: the same")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    until = time.monotonic() + 60 * options.minutes
    warnings.simplefilter("ignore")  # of the peers
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    options.tokens = read_tokens(options.texts)
    machine = f"{devices.describe(options.device)}, torch {torch.__version__}"
    on_cpu = options.device.type == "cpu"
    chosen = [
        cell
        for cell in (ON_CPU if on_cpu else ON_GPU)
        if any(part in cell.name for part in options.cells)
    ]
    run(chosen, partial(measure, options=options), machine, until, options.json)


def run(
    cells: list[Cell],
    measure: Callable[..., Figures],
    machine: str,
    until: float,
    file: Path | None,
) -> None:
    """Measure cells until the time ``until``; each is written as it ends, and shown."""
    results: dict[str, Any] = {"machine": machine, "cells": {}}
    if file and file.exists():
        results = json.loads(file.read_text())
        if results["machine"] != machine:
            raise SystemExit(f"{file} holds figures of {results['machine']}: name another file")
    print(machine)
    for cell in cells:
        if cell.name in results["cells"]:
            show(cell.name, results["cells"][cell.name])
            continue
        if time.monotonic() > until:
            print(f"\n{cell.name}: no time was left")
            continue
        try:
            figures = measure(cell, until=until)
        except Exception as error:
            print(f"\n{cell.name}: {reason(error)}")
            continue
        finally:
            free_memory()
        results["cells"][cell.name] = figures
        if file:
            file.write_text(json.dumps(results, indent=2))
        show(cell.name, figures)


if __name__ == "__main__":
    main()
