"""Everything that a surface may show, in one place."""

import math
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from dpbitfit.errors import LedgerError
from dpbitfit_monitor import alerts
from dpbitfit_monitor.alerts import Alert, Alerts
from dpbitfit_monitor.bound_worker import refine_until
from dpbitfit_monitor.certificates import CertificateView, read_certificates
from dpbitfit_monitor.reader import Reader
from dpbitfit_monitor.runs import Runs, RunView

RUNS_SECONDS = 1.0  # runs that were read no longer ago are not read again
_STOP_SECONDS = 5.0  # for a bound that is being made


class Monitor:
    """A ledger, the runs in some folders, and certificates; read-only, for many threads."""

    def __init__(
        self, reader: Reader, runs: Iterable[Path] = (), certificates: Iterable[Path] = ()
    ) -> None:
        self.reader = reader
        self._runs = Runs(runs)
        self._certificates = list(certificates)
        self._alerts = Alerts()
        self._found: tuple[RunView, ...] = ()
        self._looked = -math.inf
        self._lock = threading.Lock()

    def runs(self) -> tuple[RunView, ...]:
        """Every run as it was a second ago at most, the one that changed last first."""
        with self._lock:
            if time.monotonic() - self._looked >= RUNS_SECONDS:
                self._found, self._looked = self._runs.all(), time.monotonic()
            return self._found

    def certificates(self) -> list[CertificateView]:
        """Every certificate that can be read."""
        return read_certificates(self._certificates)[0]

    def alerts(self) -> tuple[Alert, ...]:
        """What stands now, gravest first.

        A ledger that cannot be read is an alert too; it says nothing of the accounts.
        """
        now = datetime.now(UTC)
        found = alerts.of_certificates(*read_certificates(self._certificates), now)
        try:
            found += alerts.of_overview(self.reader.overview())
        except LedgerError as error:
            found.append(alerts.of_ledger(str(error), now))
        with self._lock:
            return self._alerts.standing(found)

    @contextmanager
    def refining(self) -> Iterator[None]:
        """Has the smallest bounds made by another process while the block runs."""
        stop = threading.Event()
        thread = threading.Thread(target=refine_until, args=(self.reader.bounds, stop), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(_STOP_SECONDS)
