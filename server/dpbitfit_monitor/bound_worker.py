"""Computes the smallest bounds in a low-priority process.

In a thread of the process that answers, an accountant would keep requests from
Python's lock, and its big arrays of ever other sizes would make that process grow.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection

from dpbitfit_monitor.bounds import Bounds, smallest
from dpbitfit_monitor.malloc import forget_transforms, keep_small

POLL_SECONDS = 0.5
IDLE_SECONDS = 60.0  # without work, until a process ends and its memory is given back
MOST_BOUNDS = 200  # that one process makes
_LEAST_PRIORITY = 19

_log = logging.getLogger(__name__)


def refine_until(bounds: Bounds, stop: threading.Event) -> None:
    """Make the smallest bounds that wait, until ``stop`` is set."""
    while not stop.is_set():
        if bounds.urgent(POLL_SECONDS) is None:
            continue
        try:
            with _worker() as worker:
                _refine(bounds, worker, stop)
        except (EOFError, OSError):
            _log.warning("the process for the smallest bounds was ended or cannot be started")
            bounds.refine()  # only a smallest bound raises an alert


def _refine(bounds: Bounds, worker: Connection, stop: threading.Event) -> None:
    """Have one process compute bounds, until it is time for the next process."""
    worked, left = time.monotonic(), MOST_BOUNDS
    while left and not stop.is_set() and time.monotonic() < worked + IDLE_SECONDS:
        place = bounds.urgent(POLL_SECONDS)
        if place is None:
            continue
        worker.send(place)
        while not worker.poll(POLL_SECONDS):
            if stop.is_set():
                return
        bounds.put(place, worker.recv())
        worked, left = time.monotonic(), left - 1


@contextmanager
def _worker() -> Iterator[Connection]:
    """A process that answers places with their smallest bounds, while the block runs."""
    context = get_context("spawn")  # a fork would copy the locks of this process's threads
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        process.terminate()
        process.join()


def _serve(requests: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the monitor ends this process
    os.nice(_LEAST_PRIORITY)
    keep_small()
    try:
        while True:
            requests.send(smallest(requests.recv()))
            forget_transforms()
    except (EOFError, OSError):
        return  # the monitor has closed its end
