"""Time of a site's round through its guard, against a process that does all of it anew.

    python -m tests.benchmarks.guard --records 500 4000 --steps 1 --rounds 3 --json guard.json

Flower starts a process for every message. With a guard that process is a relay,
which asks over the guard's socket; without one it imports torch, loads the
model, tokenises the records and trains the same round itself (the peer). Both
are whole processes here, started in turn, with the same plan, policy and kind
of ledger. The guard's first round loads the model and the records; its start,
once, is told apart. "socket" is the guard's answer to a process that is already
there. Wall times; medians over the later rounds.
"""

import argparse
import grp
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from dpbitfit_client.generated import guard_pb2 as pb
from dpbitfit_client.guard_client import SocketGuardClient
from dpbitfit_client.message import from_proto, to_proto

from dpbitfit.data.corpus import write_corpus
from dpbitfit.data.labels import read_labels
from dpbitfit.engine.biases import read_biases
from dpbitfit.errors import GuardUnavailable
from dpbitfit.tasks.models import model_digest, resolve_model

from ..support import plans
from ..support.coordinators import Coordinator
from ..support.policies import written
from ..support.sites import begin
from ..support.tasks import load_text

SECONDS = 600
PLAN = plans.plan(
    layout_digest="0" * 64,
    model_digest="0" * 64,
    noise_multiplier=4.0,
    sampling_rate=0.05,
    rounds=100,
    steps_per_round=1,
    max_length=64,
)


class Site:
    """A site's policy and records in a folder, and a coordinator that may ask it."""

    def __init__(self, folder: Path, records: int, steps: int) -> None:
        self.folder = folder
        self._coordinator = Coordinator(folder)
        self._asked = 0
        write_corpus(folder / "letters.csv", records=records)
        labels = folder / "letters.labels.txt"
        where = Path(resolve_model("minilm"))
        task = load_text(str(where), read_labels(str(labels)), max_length=64)
        self._biases: np.ndarray = read_biases(task.model, task.layout)
        digests = {"layout_digest": task.layout.digest, "model_digest": task.digest}
        self._plan = plans.plan(PLAN, steps_per_round=steps, **digests)
        for name in ("guard", "peer"):
            begin(self.folder / f"{name}.sqlite")
            self._write_policy(name, records, labels, model_digest(where))

    def _write_policy(self, name: str, records: int, labels: Path, digest: str) -> None:
        limits = {
            **{"min-noise-multiplier": 1.0, "max-sampling-rate": 0.5, "models": ["minilm"]},
            **{"max-steps-per-round": 100, "max-rounds": 1000},
        }
        values = {
            "site": {
                **{"name": "hospital-1", "ledger": str(self.folder / f"{name}.sqlite")},
                "socket": str(self.folder / f"{name}.sock"),
                "group": grp.getgrgid(os.getgid()).gr_name,
            },
            "coordinators": {"office": {"public-key": self._coordinator.ledger.id}},
            "models": {"minilm": {"path": "minilm", "digest": digest}},
            "datasets": {
                "letters": {
                    **{"path": str(self.folder / "letters.csv"), "labels": str(labels)},
                    **{"declared-size": records, "epsilon": 100.0, "delta": PLAN.delta},
                    "coordinators": {"office": limits},
                }
            },
        }
        self.policy(name).write_text(written(values)[0])
        self.policy(name).chmod(0o600)

    def policy(self, name: str) -> Path:
        return self.folder / f"{name}.toml"

    def request(self, name: str = "guard") -> Path:
        """A file with the next round's request, to a guard with the ledger of this name."""
        self._asked += 1
        self._coordinator.site = self.folder / f"{name}.sqlite"
        request = self._coordinator.request(
            self._plan, self._biases, key=f"round-{self._asked:012}"
        )
        path = self.folder / "request"
        path.write_bytes(to_proto(request).SerializeToString())
        return path


@contextmanager
def served(site: Site) -> Iterator[float]:
    """The site's guard at work; how many seconds its start took."""
    main = "from dpbitfit.cli import main; main()"
    command = [sys.executable, "-c", main, "guard", "serve", "--policy", str(site.policy("guard"))]
    began = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        relay = SocketGuardClient(str(site.folder / "guard.sock"), SECONDS)
        while process.poll() is None:
            with suppress(GuardUnavailable):
                relay.status(1)
                break
            time.sleep(0.05)
        yield time.perf_counter() - began
    finally:
        process.terminate()
        process.wait()


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(records: int, steps: int, rounds: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as name:
        site = Site(Path(name), records, steps)
        socket = str(site.folder / "guard.sock")
        warm = SocketGuardClient(socket, SECONDS)

        def process(kind: str, *arguments: str) -> None:
            command = [sys.executable, "-m", "tests.benchmarks.one_round", kind, *arguments]
            asked = site.request("peer" if kind == "peer" else "guard")
            subprocess.run([*command, str(asked)], check=True)

        def direct() -> None:
            warm.train(from_proto(pb.Envelope.FromString(site.request().read_bytes())))

        ways: dict[str, Callable[[], None]] = {
            "relay": lambda: process("relay", socket),
            "socket": direct,
            "peer": lambda: process("peer", str(site.policy("peer"))),
        }
        with served(site) as start:
            times = [{way: seconds(work) for way, work in ways.items()} for _ in range(1 + rounds)]
    result = {"guard's start": start}
    for way in ways:
        if way != "socket":  # when it is first asked, the relay has warmed the guard
            result[f"first round, {way}"] = times[0][way]
        result[f"later rounds, {way}"] = statistics.median(each[way] for each in times[1:])
    result["first round, times faster"] = result["first round, peer"] / result["first round, relay"]
    result["later rounds, times faster"] = (
        result["later rounds, peer"] / result["later rounds, relay"]
    )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, nargs="+", default=[500, 4000])
    parser.add_argument("--steps", type=int, nargs="+", default=[1])
    parser.add_argument("--rounds", type=int, default=5, help="after the first")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = {
        f"{records} x {steps}": measure(records, steps, options.rounds)
        for records in options.records
        for steps in options.steps
    }
    print(f"{'seconds, or times':32}" + "".join(f"{name:>12}" for name in results))
    for name in next(iter(results.values())):
        print(f"{name:32}" + "".join(f"{result[name]:12.3g}" for result in results.values()))
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
