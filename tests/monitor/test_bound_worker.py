"""The smallest bounds are made by another process; what becomes of it harms no page."""

import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import active_children
from multiprocessing.connection import Connection
from typing import NoReturn

import psutil
import pytest
from dpbitfit_monitor import bound_worker
from dpbitfit_monitor.bounds import Bounds, Place, smallest

from dpbitfit.accounting.composition import Bound
from dpbitfit.accounting.mechanism import Mechanism
from dpbitfit.errors import AccountingError
from dpbitfit.ledger.bounds import QUICK

SECONDS = 120
PLACE, OTHER = ((((Mechanism(noise, 0.1), 10),), 1e-5) for noise in (1.0, 2.0))


class Told(Bounds):
    """Bounds that tell what was found for them."""

    def __init__(self) -> None:
        super().__init__()
        self.news = queue.Queue[tuple[Place, Bound | AccountingError]]()

    def put(self, place: Place, made: Bound | AccountingError) -> None:
        super().put(place, made)
        self.news.put((place, made))


@contextmanager
def refined() -> Iterator[Told]:
    bounds, stop = Told(), threading.Event()
    thread = threading.Thread(target=bound_worker.refine_until, args=(bounds, stop))
    thread.start()
    try:
        yield bounds
    finally:
        stop.set()
        thread.join()


def test_each_bound_that_waits_is_made_elsewhere_and_is_the_smallest() -> None:
    with refined() as bounds:
        for place in (PLACE, OTHER):
            assert bounds.get(*place).accountant == QUICK
            assert bounds.news.get(timeout=SECONDS) == (place, smallest(place))
            assert bounds.get(*place) == smallest(place)
        (helper,) = active_children()
        assert psutil.Process(helper.pid).nice() > psutil.Process().nice()
    assert active_children() == []


def killed(questions: Connection) -> None:
    questions.recv()
    os.kill(os.getpid(), signal.SIGKILL)


def absent(_method: str) -> NoReturn:
    raise OSError("no process can be started")


@pytest.mark.parametrize(("what", "fails"), [("_serve", killed), ("get_context", absent)])
def test_a_bound_that_no_other_process_makes_is_the_smallest_all_the_same(
    what: str, fails: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with refined() as bounds:
        with monkeypatch.context() as patched:
            patched.setattr(bound_worker, what, fails)
            bounds.get(*PLACE)
            assert bounds.news.get(timeout=SECONDS) == (PLACE, smallest(PLACE))
        bounds.get(*OTHER)
        assert bounds.news.get(timeout=SECONDS) == (OTHER, smallest(OTHER))


def wait(questions: Connection) -> None:
    questions.recv()
    questions.recv()


def test_the_end_does_not_wait_for_a_bound_that_takes_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bound_worker, "_serve", wait)
    with refined() as bounds:
        bounds.get(*PLACE)
        while not active_children():
            time.sleep(0.01)
    assert active_children() == []
    assert bounds.news.empty()
