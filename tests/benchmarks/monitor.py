"""Time and memory of a monitor that serves many accounts, on one core, while a run writes.

    python -m tests.benchmarks.monitor --accounts 1000 --rounds 500 --json monitor.json

A real ``dpbitfit monitor serve``, pinned to one core, on SQLite and PostgreSQL;
50 streams watch a run. Milliseconds of wall time from question to answer: first
while nothing happens, then while another process reserves and commits a round of
every account again and again, so that every look finds all accounts changed.
"first" is the first overview of a new process. The peer is the same overview made
anew from the ledger each time, as ``dpbitfit ledger accounts`` makes it.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path

import psutil
from dpbitfit_server.monitor.client import MonitorClient

from dpbitfit.ledger import Ledger, figures
from tests.benchmarks.crowd import RUN, STEPS, crowd, name_of
from tests.dpbitfit.ledger import postgres
from tests.server.monitor.served import free_port
from tests.server.monitor.test_runs import LINE, folder

STREAMS = 50
PAUSE_SECONDS = 0.7  # so that no two questions meet the monitor's look at the same point
START = "import sys; from dpbitfit.cli import main; sys.argv[0] = 'dpbitfit'; main()"


def milliseconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - began)


@contextmanager
def served(url: str, out: Path) -> Iterator[tuple[psutil.Process, MonitorClient, str]]:
    """A monitor on one core, as soon as it answers."""
    ports = free_port(), free_port()
    addresses = [f"127.0.0.1:{port}" for port in ports]
    words = ["--ledger", url, "--runs", str(out), "--grpc", addresses[0], "--http", addresses[1]]
    command = [sys.executable, "-c", START, "monitor", "serve", *words]
    with (
        (out / "log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log) as running,
        MonitorClient(addresses[0], timeout=60) as client,
    ):
        process = psutil.Process(running.pid)
        process.cpu_affinity([max(os.sched_getaffinity(0))])
        try:
            while True:
                try:
                    next(iter(client.accounts(page_size=1)))
                    break
                except Exception:
                    time.sleep(0.2)
            yield process, client, f"http://{addresses[1]}/metrics"
        finally:
            running.terminate()


def questions(client: MonitorClient, metrics: str) -> dict[str, Callable[[], object]]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return {
        "overview": lambda: list(client.accounts(page_size=1000)),
        "account": lambda: client.account(name_of(1)),
        "/metrics": lambda: opener.open(metrics, timeout=60).read(),
        "events, a page": lambda: next(iter(client.events(name_of(1), page_size=100))),
    }


def asked(client: MonitorClient, metrics: str, repeats: int, when: str = "") -> dict[str, float]:
    times: dict[str, list[float]] = {}
    for _ in range(repeats):
        for name, ask in questions(client, metrics).items():
            time.sleep(PAUSE_SECONDS)
            times.setdefault(f"{name}{when}", []).append(milliseconds(ask))
    found = {}
    for name, values in times.items():
        found[f"{name}, median"], found[f"{name}, worst"] = statistics.median(values), max(values)
    return found


def write_rounds(url: str, first: int, stop: Event) -> None:
    ledger = Ledger(url)
    ids = [one.id for one in ledger.accounts()]
    number = first
    while not stop.is_set():
        keys = {of: f"more-{number}-{of}" for of in ids}
        ledger.reserve(RUN, number, keys, STEPS)
        ledger.commit(dict.fromkeys(keys.values(), "reply"))
        number += 1
        stop.wait(1.0)


def measure(url: str, accounts: int, rounds: int, repeats: int, scratch: Path) -> dict[str, float]:
    ledger = crowd(url, accounts, rounds, ahead=10_000)
    out = folder(scratch / "out", LINE)
    found: dict[str, float] = {}
    began = time.perf_counter()
    with ExitStack() as stack:
        process, client, metrics = stack.enter_context(served(url, out))
        found["start to first answer, s"] = time.perf_counter() - began
        time.sleep(15)  # for the smallest bounds
        found["memory at first, MB"] = process.memory_info().rss / 1e6
        for _ in range(STREAMS):
            threading.Thread(target=lambda: _drain(client), daemon=True).start()
        found |= asked(client, metrics, repeats)
        found["memory with 50 streams, MB"] = process.memory_info().rss / 1e6
        context = multiprocessing.get_context("spawn")
        stop = context.Event()
        writer = context.Process(target=write_rounds, args=(url, rounds, stop))
        writer.start()
        found |= asked(client, metrics, repeats, ", while a run writes")
        stop.set()
        writer.join()
        found["memory at last, MB"] = process.memory_info().rss / 1e6
    found["peer: all standings anew"] = statistics.median(
        milliseconds(lambda: figures.standings(ledger)) for _ in range(3)
    )
    ledger.database.close()
    return found


def _drain(client: MonitorClient) -> None:
    try:
        for _ in client.rounds():
            pass
    except Exception:
        return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--accounts", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--sqlite", action="store_true", help="only SQLite")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sizes = (options.accounts, options.rounds, options.repeats)
    results = {}
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        urls = {"sqlite": str(Path(scratch) / "ledger.sqlite")}
        programs = postgres.binaries()
        if programs is not None and not options.sqlite:
            urls["postgresql"] = stack.enter_context(postgres.serve(programs)).empty()
        for name, url in urls.items():
            results[name] = measure(url, *sizes, Path(scratch) / name)
    columns = "".join(f"{name:>12}" for name in results)
    print(f"{'milliseconds, or as it says':50}{columns}")
    for name in next(iter(results.values())):
        print(f"{name:50}" + "".join(f"{found[name]:12.1f}" for found in results.values()))
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
