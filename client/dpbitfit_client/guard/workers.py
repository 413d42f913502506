"""A process for each further device of a site, which takes part in every sampled step.

    guard, on the first device <- a pair of sockets that is inherited -> worker, on another

A worker listens nowhere, reads no file of records and draws nothing (see ``Ranks``): the guard
tells it the task, gives it the records, and hands it each round. It ends when the guard does,
however that ends. After a round that failed all are killed, so that none holds a part of one;
the next round that samples has new ones before it is charged.
"""

import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

from dpbitfit.data.tables import Table
from dpbitfit.engine.devices import kinds_of
from dpbitfit.engine.ranks import Group, Ranks
from dpbitfit.engine.split import devices_of
from dpbitfit.errors import DpbitfitError, ModelError, WorkerError
from dpbitfit.phases import SampledPhase
from dpbitfit.tasks.base import Task
from dpbitfit.tasks.features import FeatureCache
from dpbitfit.tasks.private_records import private_records
from dpbitfit.tasks.rounds import RoundStart, site_round

LOAD_SECONDS = 3600.0  # for a model and its check, which take minutes on a GPU
READ_SECONDS = 60  # for a worker to take what it waits for
END_SECONDS = 10.0  # for one that is killed

# With the guard's own path for imports, of a site's tasks too.
_START = (
    "import sys; sys.path[:] = sys.argv[2:]; "
    "from dpbitfit_client.guard.workers import work; work(int(sys.argv[1]))"
)

LoadOn = Callable[..., Task]  # of a ``device``; it can be pickled


class Workers:
    """The workers of one task, which holds one data set's records to train on."""

    def __init__(
        self, devices: Sequence[str], load: LoadOn, records: Table, round_seconds: float
    ) -> None:
        """``load`` gives the task on a ``device``; a round may last for ``round_seconds``."""
        self._devices, self._load, self._records = devices, load, records
        self._round_seconds = round_seconds
        self._workers: list[_Worker] = []

    def start(self) -> None:
        """Have new ones load the task, beside what this process does until they are ``ready``."""
        self.kill()
        try:
            self._workers = [_Worker(device) for device in self._devices]
        except OSError as error:
            raise WorkerError(
                f"no process for a further device can be started: {error.strerror}: see the "
                "machine's memory and its limits of processes and open files"
            ) from error
        for rank, worker in enumerate(self._workers, start=1):
            worker.send((rank, 1 + len(self._workers), worker.device, self._load))

    def ready(self, task: Task) -> None:
        """Have workers that hold this process's ``task`` and records; new ones where one ended.

        Nothing has been charged yet. Raises what loading the task does, ModelError for a
        device that computes otherwise than the first, WorkerError where one does not answer.
        """
        if not self._workers or any(worker.has_ended for worker in self._workers):
            self.start()
        try:
            for worker in self._workers:
                worker.prepare(_facts(task), self._records)
        except BaseException:
            self.kill()
            raise

    @contextmanager
    def round(self, start: RoundStart) -> Iterator[Ranks]:
        """The processes that work a round together, which the workers begin now.

        Whatever ends the round early ends the workers too. Raises WorkerError where one
        ends first, or works for too long.
        """
        if not (self._workers and isinstance(start.phase, SampledPhase)):
            yield Ranks()
            return
        last = time.monotonic() + self._round_seconds
        try:
            for worker in self._workers:
                worker.send(start)
            yield Ranks(_Guard(self._workers, last))
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """End all of them, also while another thread waits for one: that raises WorkerError."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            with suppress(subprocess.TimeoutExpired):
                worker.process.wait(END_SECONDS)


class _Worker:
    """A worker as the guard sees it."""

    def __init__(self, device: str) -> None:
        self.device, self._prepared = device, False
        ours, theirs = socket.socketpair()
        for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):  # of a message once it has begun
            ours.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", READ_SECONDS, 0))
        self._connection = Connection(ours.detach())
        with theirs:
            number = theirs.fileno()
            self.process = subprocess.Popen(
                [sys.executable, "-c", _START, str(number), *sys.path],
                stdin=subprocess.DEVNULL,
                pass_fds=[number],
            )

    @property
    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def send(self, message: Any) -> None:
        try:
            self._connection.send(message)
        except OSError as error:
            raise self._failure() from error

    def receive(self, last: float) -> Any:
        """Its next message, until ``last`` of the monotonic clock."""
        try:
            if self._connection.poll(max(0.0, last - time.monotonic())):
                return self._connection.recv()
        except (OSError, EOFError) as error:
            raise self._failure() from error
        raise self._failure()

    def prepare(self, facts: tuple[Any, ...], records: Table) -> None:
        """Wait until it holds the task of these facts, and give it the records."""
        if self._prepared:
            return
        loaded = self.receive(time.monotonic() + LOAD_SECONDS)
        if isinstance(loaded, DpbitfitError):
            raise type(loaded)(f"on {self.device}: {loaded}")
        if loaded != facts:
            raise ModelError(
                f"{self.device} computes otherwise than the first device: name devices of one kind"
            )
        self.send(records)
        self._prepared = True

    def _failure(self) -> WorkerError:
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(1.0)  # where its end of the pair is closed already
        code = self.process.returncode
        how = f"signal {-code}" if code and code < 0 else f"status {code}"
        what = "did not answer in time" if code is None else f"ended with {how}"
        return WorkerError(
            f"the process for the device {self.device} {what}: see nvidia-smi and the machine's "
            "memory; the next round starts another"
        )


class _Guard(Group):
    """The guard among the processes of a round."""

    rank = 0

    def __init__(self, workers: Sequence[_Worker], last: float) -> None:
        self._workers, self._last = workers, last
        self.count = 1 + len(workers)

    def gather(self, value: Any) -> list[Any]:
        values = [value, *(worker.receive(self._last) for worker in self._workers)]
        for worker in self._workers:
            worker.send(values)
        return values


class _Member(Group):
    """A worker among the processes of a round."""

    def __init__(self, guard: "Connection[Any, Any]", rank: int, count: int) -> None:
        self._guard, self.rank, self.count = guard, rank, count

    def gather(self, value: Any) -> list[Any]:
        self._guard.send(value)
        values: list[Any] = self._guard.recv()
        return values


def work(descriptor: int) -> None:
    """A worker's life, with its end of the pair."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C is for the guard, which ends this
    threading.Thread(target=_end_with_the_guard, args=(descriptor,), daemon=True).start()
    guard: Connection[Any, Any] = Connection(descriptor)
    with suppress(EOFError, ConnectionError):
        _work(guard)


def _work(guard: "Connection[Any, Any]") -> None:
    rank, count, device, load = guard.recv()
    try:
        task: Task = load(device=device)
    except DpbitfitError as error:  # which has seen no record
        guard.send(error)
        return
    guard.send(_facts(task))
    table, records = guard.recv(), None
    while True:
        start: RoundStart = guard.recv()
        try:
            # As in the guard, in a round that is charged: a failure on a record is no free answer.
            records = private_records(task, table) if records is None else records
            ranks = Ranks(_Member(guard, rank, count))
            site_round(task, records, FeatureCache(task, records), start, ranks=ranks)
        except Exception as error:  # its text may quote a record
            guard.send((type(error).__name__, None))
            return


def _end_with_the_guard(descriptor: int) -> None:
    """End this process when the other end of the pair is closed, whatever it does just then."""
    closed = select.poll()
    closed.register(descriptor, 0)
    closed.poll()
    os._exit(1)


def _facts(task: Task) -> tuple[Any, ...]:
    """What must be the same in all processes."""
    kinds = kinds_of(devices_of(task.model))
    return task.digest, task.layout.digest, task.canonical_rows, kinds
