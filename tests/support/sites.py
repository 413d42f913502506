"""A real ``dpbitfit guard serve`` process over a small corpus, and a coordinator that asks it."""

import functools
import grp
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from dpbitfit_client.guard_client import SocketGuardClient
from dpbitfit_client.message import Refused

from dpbitfit.errors import GuardUnavailable
from dpbitfit.ledger import Ledger
from dpbitfit.plan import Plan
from dpbitfit.protocol.envelope import Envelope
from dpbitfit.protocol.messages import Description, Facts, Refusal, RoundRequest
from dpbitfit.tasks.models import model_digest

from ..conftest import ROOT
from . import plans, warm
from .coordinators import Coordinator
from .policies import changed, written
from .shallow import narrow_minilm
from .tasks import load_text

SERVE = "from dpbitfit_client.cli import app; app()"
SECONDS = 180.0  # for anything on a slow machine

# So little is spent by each that there are many good questions in a budget.
GOOD = plans.plan(
    noise_multiplier=20.0,
    sampling_rate=0.1,
    rounds=200,
    steps_per_round=1,
    max_length=24,
)
# The same, but asked for so many steps that it is still at work when something happens to it.
LONG = plans.plan(GOOD, rounds=2, steps_per_round=5000)

_keys = (f"key-{number:012}" for number in itertools.count())


def fresh_key() -> str:
    return next(_keys)


@functools.cache
def pretrained() -> np.ndarray:
    """Where a run begins: the packed biases of the model, whatever its labels."""
    return load_text(narrow_minilm(), ("a", "b"), "labels").pretrained


def key_of(request: Envelope) -> str:
    return RoundRequest.decode(request.statement).key


class Site:
    """A folder with policy, ledger and socket, the guard's process, and two coordinators."""

    def __init__(self, folder: Path, corpus: Path, code: str = SERVE, fresh: bool = False) -> None:
        self.folder = folder
        self.policy = folder / "policy.toml"
        self.touched = folder / "touched"
        self.log = folder / "guard.log"
        self.socket = folder / "run" / "guard.sock"
        self.front = self.socket  # where this process asks
        self.ledger_file = folder / "site" / "ledger.sqlite"
        for part in ("run", "site", "office", "other"):
            (folder / part).mkdir()
        self.office = Coordinator(folder / "office")
        self.other = Coordinator(folder / "other")
        self.office.site = self.other.site = self.ledger_file
        self.values = policy(self, corpus)
        self._code, self._fresh = code, fresh
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "client", ROOT / "server"))),
            "DPBITFIT_TOUCHED": str(self.touched),
            "DPBITFIT_LETTERS": str(corpus),
        }
        self.process: subprocess.Popen[bytes] | warm.Process | None = None
        self.begun = False
        self._plans: dict[str, Facts] = {}

    def write(self, *changes: tuple[tuple[str, ...], Any]) -> None:
        """The policy file, with some keys set."""
        for key, value in changes:
            self.values = changed(key, value, self.values)
        self.policy.write_text(written(self.values)[0])
        self.policy.chmod(0o600)

    def start(self, umask: int = -1) -> None:
        """Start the guard, under this process's umask or another, and wait until it answers.

        The first time with a ledger that its user has made. A fresh guard is a Python
        that has imported nothing.
        """
        if not self.begun:
            self.begun = True
            begin(self.ledger_file)
        with self.log.open("ab") as log:
            words = ("serve", "--policy", str(self.policy))
            given: Any = {"env": self.environment, "stderr": log, "umask": umask}
            if self._fresh:
                command = [sys.executable, "-c", self._code, *words]
                self.process = subprocess.Popen(command, **given)
            else:
                self.process = warm.Process(self._code, *words, **given)
        last = time.monotonic() + SECONDS
        while True:
            with suppress(GuardUnavailable):
                self.relay().status()
                return
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < last
            time.sleep(0.2)

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End the guard; its exit status."""
        assert self.process is not None
        self.process.send_signal(how)
        return self.process.wait(SECONDS)

    def relay(self) -> SocketGuardClient:
        return SocketGuardClient(str(self.front), SECONDS)

    def plan(self, plan: Plan = GOOD) -> Plan:
        """The plan with the digests of this site."""
        settings = plan.task.model_dump_json()
        if settings not in self._plans:
            reply = self.relay().describe(self.office.question(plan))
            self._plans[settings] = Description.decode(reply.statement).facts
        facts = self._plans[settings]
        return plans.plan(plan, layout_digest=facts.layout_digest, model_digest=facts.model_digest)

    def biases(self) -> np.ndarray:
        return pretrained()

    def request(
        self, plan: Plan, purpose: str = "train", by: Coordinator | None = None, **options: Any
    ) -> Envelope:
        options = {"key": fresh_key(), "biases": self.biases(), **options}
        return (by or self.office).request(plan, purpose=purpose, **options)

    def train(self, plan: Plan | None = None, **options: Any) -> Envelope:
        return self.relay().train(self.request(plan or self.plan(), **options))

    def evaluate(self, plan: Plan, **options: Any) -> Envelope:
        return self.relay().evaluate(self.request(plan, purpose="evaluate", **options))

    def refused(self, plan: Plan, **options: Any) -> Refusal:
        """How it refuses to train a plan."""
        try:
            self.train(plan, **options)
        except Refused as refused:
            return refused.refusal
        raise AssertionError("this was trained")

    def ledger(self) -> Ledger:
        return Ledger(str(self.ledger_file), readonly=True)

    def spent(self, account: str = "letters") -> Counter[str]:
        """Steps of each state, by the ledger file alone."""
        ledger = self.ledger()
        result: Counter[str] = Counter()
        for one in ledger.accounts():
            if one.name.dataset == account:
                ledger.verify(one)
                for held in ledger.allotments([one.id])[one.id].values():
                    result.update(reserved=held.reserved, committed=held.committed)
        ledger.database.close()
        return +result

    def outcome(self, key: str) -> tuple[str, str]:
        ledger = self.ledger()
        result = ledger.reservation(key)
        ledger.database.close()
        return (result.state, result.outcome) if result else ("", "")

    def readings(self) -> list[str]:
        """Which records were read, each time that any were."""
        return self.touched.read_text().split() if self.touched.exists() else []


def begin(path: Path) -> None:
    """A new ledger, of its folder's owner."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    Ledger(str(path), create=True).database.close()
    owner = path.parent.stat()
    os.chown(path, owner.st_uid, owner.st_gid)


def policy(site: Site, corpus: Path) -> dict[str, Any]:
    limits = {
        "min-noise-multiplier": 1.0,
        "max-sampling-rate": 0.5,
        "max-steps-per-round": 5000,
        "max-rounds": 200,
        "heads": ["labels"],
        "models": ["minilm"],
        "max-length": 24,  # with which a guard checks its model, and keeps it for ``GOOD``
    }
    return {
        "site": {
            "name": "hospital-1",
            "ledger": str(site.ledger_file),
            "socket": str(site.socket),
            "group": grp.getgrgid(os.getegid()).gr_name,
        },
        "coordinators": {
            "office": {"public-key": site.office.ledger.id},
            "other": {"public-key": site.other.ledger.id},
        },
        "models": {
            "minilm": {"path": narrow_minilm(), "digest": model_digest(Path(narrow_minilm()))}
        },
        "datasets": {
            "letters": {
                "loader": "tests.support.loaders:letters",
                "labels": str(corpus.with_suffix(".labels.txt")),
                "declared-size": 60,
                "epsilon": 8.0,
                "delta": 1e-5,
                "coordinators": {
                    "office": {"epsilon": 6.0, **limits},
                    "other": {"epsilon": 2.0, **limits},
                },
                "evaluation": {
                    "loader": "tests.support.loaders:held_out",
                    "declared-size": 60,
                    "epsilon": 1.0,
                    "delta": 1e-5,
                    "metrics": {"accuracy": {"noise-multiplier": 20.0}},
                },
            }
        },
    }


@contextmanager
def made(corpus: Path, **options: Any) -> Iterator[Site]:
    """A site whose guard has not started; other users may come as far as its folders."""
    folder = Path(tempfile.mkdtemp(prefix="dpbitfit-site-"))
    folder.chmod(0o755)
    site = Site(folder, corpus, **options)
    try:
        yield site
    finally:
        if site.process is not None and site.process.poll() is None:
            site.end(signal.SIGKILL)
        shutil.rmtree(folder)


@contextmanager
def served(corpus: Path, *changes: tuple[tuple[str, ...], Any]) -> Iterator[Site]:
    """A site whose guard answers."""
    with made(corpus) as site:
        site.write(*changes)
        site.start()
        yield site
