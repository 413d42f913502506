"""Whole slots, counted from when it was asked, and one question at a time."""

import threading
import time

import pytest
from dpbitfit_client.guard.reply_slot import ReplySlot

from dpbitfit.errors import LedgerBusy

SLOT = 1.0


@pytest.mark.parametrize("passed", [0.0, 1.5], ids=["in its first slot", "in its second"])
def test_a_reply_leaves_at_a_whole_slot_after_its_request(passed: float) -> None:
    """A wait before it, or long work in it, is no way round the slots."""
    began = time.monotonic() - passed
    with ReplySlot(SLOT).taken(began, 60):
        pass
    assert time.monotonic() - began >= (2 * SLOT if passed > SLOT else SLOT)


@pytest.mark.parametrize(("passed", "left"), [(0.5, 1.5), (2.0, 0.0), (3.0, 1.0), (7.75, 0.25)])
def test_slots_are_counted_from_the_request_and_not_from_its_start(
    monkeypatch: pytest.MonkeyPatch, passed: float, left: float
) -> None:
    """By a clock of the test's own: so much of a slot of two seconds is waited for."""
    waited = []
    monkeypatch.setattr(threading.Event, "wait", lambda _, seconds: waited.append(seconds))
    monkeypatch.setattr(time, "monotonic", lambda: 100 + passed)
    with ReplySlot(2.0).taken(100, 60):
        pass
    assert waited == [left]


def test_work_that_fails_is_held_back_like_any_other() -> None:
    began = time.monotonic()
    with pytest.raises(ValueError, match="failed"), ReplySlot(SLOT).taken(began, 60):
        raise ValueError("failed")
    assert time.monotonic() - began >= SLOT


def test_a_waiting_caller_begins_after_the_others_slot() -> None:
    """Else the wait would tell how long the other's work was; and until then it is busy."""
    slot, at_work = ReplySlot(SLOT), threading.Event()
    began = time.monotonic()

    def work() -> None:
        with slot.taken(began, 60):
            at_work.set()

    other = threading.Thread(target=work)
    other.start()
    at_work.wait()
    with slot.taken(time.monotonic(), 60):
        assert time.monotonic() - began >= SLOT
    other.join()


def test_a_request_that_has_waited_too_long_is_refused() -> None:
    slot = ReplySlot(0)
    with slot.taken(0, 60):
        assert slot.busy
        with pytest.raises(LedgerBusy, match="still at work"), slot.taken(0, 0.01):
            pass
    assert not slot.busy


def test_a_closed_slot_holds_no_reply_back() -> None:
    slot = ReplySlot(86_400)
    with slot.taken(time.monotonic(), 60):
        slot.close()
    with pytest.raises(LedgerBusy, match="about to end"), slot.taken(time.monotonic(), 60):
        pass
