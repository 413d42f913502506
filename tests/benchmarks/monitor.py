"""Time and memory of a monitor that serves many accounts, on one core, while a run writes.

    python -m tests.benchmarks.monitor --accounts 1000 --rounds 500 --json monitor.json
    python -m tests.benchmarks.monitor --soak 30 --sqlite

A real ``dpbitfit monitor serve``, pinned to one core, on SQLite and PostgreSQL;
50 streams watch a run. Milliseconds of wall time from question to answer: first
while nothing happens, then while another process reserves and commits a round of
every account again and again, so that every look finds all accounts changed.
The page is asked for by somebody who has signed in. ``--soak`` goes on asking and
writing for so many minutes and tells the memory in each. The peer is the same overview made
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
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path

import psutil
from dpbitfit_monitor.client import MonitorClient
from dpbitfit_monitor.page.access import make_token
from dpbitfit_monitor.page.urls import account_path

from dpbitfit.ledger import Ledger, status
from tests.benchmarks.crowd import RUN, STEPS, crowd, name_of
from tests.monitor.test_runs import LINE, folder
from tests.support import postgres
from tests.support.monitor_pages import OWN
from tests.support.monitors import free_port

STREAMS = 50
PAUSE_SECONDS = 0.7  # so that no two questions meet the monitor's look at the same point
START = "import sys; from dpbitfit.cli import main; sys.argv[0] = 'dpbitfit'; main()"


def milliseconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - began)


@dataclass(frozen=True)
class Served:
    """A monitor, and its clients: a program's, and somebody's browser."""

    process: psutil.Process
    client: MonitorClient
    url: str
    browser: urllib.request.OpenerDirector

    def questions(self) -> dict[str, Callable[[], object]]:
        account = account_path(name_of(1))
        return {
            "gRPC, all accounts": lambda: list(self.client.accounts(page_size=1000)),
            "gRPC, an account": lambda: self.client.account(name_of(1)),
            "gRPC, a page of events": lambda: next(iter(self.client.events(name_of(1), 100))),
            "/metrics": lambda: self.get("/metrics"),
            "page, overview": lambda: self.get("/"),
            "page, a site": lambda: self.get(account),
            "page, a run": lambda: self.get(f"/runs/{RUN}"),
        }

    def memory(self, when: str) -> dict[str, float]:
        """MB, of the monitor and of what makes its smallest bounds."""
        helpers = self.process.children(recursive=True)
        made = sum(one.memory_info().rss for one in helpers)
        own = self.process.memory_info().rss
        return {f"memory {when}, MB": own / 1e6, f"memory {when}, for bounds, MB": made / 1e6}

    def get(self, path: str) -> bytes:
        answer: bytes = self.browser.open(self.url + path, timeout=60).read()
        return answer


@contextmanager
def served(ledger: str, out: Path) -> Iterator[Served]:
    """A monitor on one core, as soon as it answers."""
    grpc, http = (f"127.0.0.1:{free_port()}" for _ in range(2))
    token, line = make_token("benchmark")
    (out / "tokens").write_text(line)
    words = ["--ledger", ledger, "--runs", str(out), "--page-token-file", str(out / "tokens")]
    command = [sys.executable, "-c", START, "monitor", "serve", *words]
    with (
        (out / "log").open("wb") as log,
        subprocess.Popen([*command, "--grpc", grpc, "--http", http], stdout=log, stderr=log) as run,
        MonitorClient(grpc, timeout=60) as client,
    ):
        process = psutil.Process(run.pid)
        process.cpu_affinity([max(os.sched_getaffinity(0))])
        try:
            while True:
                try:
                    next(iter(client.accounts(page_size=1)))
                    break
                except Exception:
                    time.sleep(0.2)
            yield Served(process, client, f"http://{http}", signed_in(f"http://{http}", token))
        finally:
            run.terminate()


def signed_in(url: str, token: str) -> urllib.request.OpenerDirector:
    direct, jar = urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor()
    browser = urllib.request.build_opener(direct, jar)
    form = urllib.parse.urlencode({"token": token}).encode()
    browser.open(urllib.request.Request(f"{url}/sign-in", form, OWN)).read()
    return browser


def asked(of: Served, repeats: int, when: str = "") -> dict[str, float]:
    times: dict[str, list[float]] = {}
    for _ in range(repeats):
        for name, ask in of.questions().items():
            time.sleep(PAUSE_SECONDS)
            times.setdefault(f"{name}{when}", []).append(milliseconds(ask))
    result = {}
    for name, values in times.items():
        result[f"{name}, median"], result[f"{name}, worst"] = statistics.median(values), max(values)
    return result


def write_rounds(url: str, out: Path, first: int, stop: Event) -> None:
    ledger = Ledger(url)
    ids = [one.id for one in ledger.accounts()]
    number = first
    while not stop.is_set():
        keys = {of: f"more-{number}-{of}" for of in ids}
        ledger.reserve(RUN, number, keys, STEPS)
        ledger.commit(dict.fromkeys(keys.values(), "reply"))
        with (out / "progress.jsonl").open("a") as progress:
            progress.write(f"{json.dumps(line_of(number))}\n")
        number += 1
        stop.wait(1.0)


def line_of(number: int) -> dict[str, object]:
    return {**LINE, "run": RUN, "rounds": 10_000, "round": number}


def soak(of: Served, minutes: int) -> dict[str, float]:
    result = {}
    for minute in range(1, minutes + 1):
        end, used = time.monotonic() + 60, []
        while time.monotonic() < end:
            asked(of, 1)
            used.append(of.memory(f"in minute {minute}, most"))
        most = {name: max(one[name] for one in used) for name in used[0]}
        result |= most
        output = " and ".join(f"{value:.0f}" for value in most.values())
        print(f"{minute} of {minutes}: {output} MB at most", file=sys.stderr)
    return result


def measure(
    url: str, accounts: int, rounds: int, repeats: int, minutes: int, scratch: Path
) -> dict[str, float]:
    ledger = crowd(url, accounts, rounds, ahead=10_000)
    traffic = {str(name_of(number)): [10**6, 10**5] for number in range(accounts)}
    out = folder(scratch / "out", *map(line_of, range(rounds)), "", traffic=traffic)
    result: dict[str, float] = {}
    began = time.perf_counter()
    with ExitStack() as stack:
        of = stack.enter_context(served(url, out))
        result["start to first answer, s"] = time.perf_counter() - began
        time.sleep(15)  # for the smallest bounds
        result |= of.memory("at first")
        for _ in range(STREAMS):
            threading.Thread(target=lambda: _drain(of.client), daemon=True).start()
        result |= asked(of, repeats)
        result |= of.memory("with 50 streams")
        context = multiprocessing.get_context("spawn")
        stop = context.Event()
        writer = context.Process(target=write_rounds, args=(url, out, rounds, stop))
        writer.start()
        result |= asked(of, repeats, ", while a run writes")
        result |= of.memory("at last")
        result |= soak(of, minutes)
        stop.set()
        writer.join()
    result["peer: all standings anew"] = statistics.median(
        milliseconds(lambda: status.budget_statuses(ledger)) for _ in range(3)
    )
    ledger.database.close()
    return result


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
    parser.add_argument("--soak", type=int, default=0, help="minutes")
    parser.add_argument("--sqlite", action="store_true", help="only SQLite")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sizes = (options.accounts, options.rounds, options.repeats, options.soak)
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
        print(f"{name:50}" + "".join(f"{result[name]:12.1f}" for result in results.values()))
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
