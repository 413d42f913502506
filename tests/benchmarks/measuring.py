"""Time and memory of steps that run in turn in one process, so that a busy machine slows all."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch.profiler import ProfilerActivity, profile

Step = Callable[[], None]


def clock(device: torch.device) -> float:
    """Seconds: of this process's CPUs, or of a clock where a GPU is at work."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def reason(error: BaseException) -> str:
    """Why a method has no figure."""
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    return f"{type(error).__name__}: {error}".splitlines()[0][:80]


def in_turn(
    steps: Mapping[str, Step], device: torch.device, repeats: int, until: float
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Seconds of each repeat by method, after one to warm up; and why a method has none.

    Ends early at the time ``until`` of ``time.monotonic``.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    failed: dict[str, str] = {}
    for repeat in range(repeats + 1):
        if repeat > 1 and time.monotonic() > until:
            break
        for name, step in steps.items():
            if name in failed:
                continue
            try:
                began = clock(device)
                step()
                seconds = clock(device) - began
            except Exception as error:
                failed[name] = reason(error)
                free_memory()
                continue
            if repeat:
                times[name].append(seconds)
    return {name: taken for name, taken in times.items() if name not in failed}, failed


def free_memory() -> None:
    """What nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def median_ratio(times: list[float], base: list[float]) -> float:
    """The median over the repeats of the ratio to the base in the same repeat."""
    return statistics.median(t / b for t, b in zip(times, base, strict=True))


def peak(step: Step, device: torch.device) -> int:
    """The most bytes that were allocated at once during ``step``, beyond those before it."""
    if device.type != "cpu":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    events = recorded.profiler.kineto_results.events()
    changes = [(event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"]
    held, most = 0, 0
    for _, change in sorted(changes):
        held += change
        most = max(most, held)
    return most
