"""One request at a time, each for a whole number of the policy's slots."""

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from dpbitfit.errors import LedgerBusy


class ReplySlot:
    """A request holds the slot until the next whole number of slots since it came.

    So a caller that waits for a round, or reads whether the guard is at work, learns
    no more of the round's length than the round's own caller does.
    """

    def __init__(self, slot_seconds: float) -> None:
        """With slots of 0 seconds, no reply is held back."""
        self._slot = slot_seconds
        self._taken = threading.Lock()
        self._closing = threading.Event()

    @property
    def busy(self) -> bool:
        """Whether a request holds it."""
        return self._taken.locked()

    def close(self) -> None:
        """Let no request begin any more, and hold no reply back."""
        self._closing.set()

    @contextmanager
    def taken(self, began: float, wait_seconds: float) -> Iterator[None]:
        """Hold the slot, for a request that came at ``began`` of the monotonic clock.

        Raises LedgerBusy where it is not free within the wait.
        """
        if not self._taken.acquire(timeout=wait_seconds):
            raise LedgerBusy("another round of this site is still at work")
        try:
            if self._closing.is_set():
                raise LedgerBusy("the guard is about to end")
            yield
        finally:
            if self._slot:
                passed = time.monotonic() - began
                self._closing.wait(math.ceil(passed / self._slot) * self._slot - passed)
            self._taken.release()
