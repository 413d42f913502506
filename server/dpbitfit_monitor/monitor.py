"""What the page, gRPC, Prometheus and the command line show: ledger, runs, certificates, alerts."""

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
from dpbitfit_monitor.reader import LedgerViews
from dpbitfit_monitor.runs import Runs, RunView

RUNS_SECONDS = 1.0  # between two reads of the runs' folders
_STOP_SECONDS = 5.0  # for a bound that is being computed


class Monitor:
    """A ledger, the runs in some folders, and certificates; read-only, for many threads."""

    def __init__(
        self, reader: LedgerViews, runs: Iterable[Path] = (), certificates: Iterable[Path] = ()
    ) -> None:
        self.reader = reader
        self._runs = Runs(runs)
        self._certificates = list(certificates)
        self._alerts = Alerts()
        self._views: tuple[RunView, ...] = ()
        self._read_at = -math.inf
        self._lock = threading.Lock()

    def runs(self) -> tuple[RunView, ...]:
        """Every run as it was a second ago at most, the one that changed last first."""
        with self._lock:
            if time.monotonic() - self._read_at >= RUNS_SECONDS:
                self._views, self._read_at = self._runs.all(), time.monotonic()
            return self._views

    def certificates(self) -> list[CertificateView]:
        """Every certificate that can be read."""
        return read_certificates(self._certificates)[0]

    def unreadable_certificates(self) -> list[Path]:
        """The watched files from which no certificate can be read."""
        return read_certificates(self._certificates)[1]

    def alerts(self) -> tuple[Alert, ...]:
        """The active alerts, most severe first.

        A ledger that cannot be read is an alert too; the accounts are then unknown.
        """
        now = datetime.now(UTC)
        active = alerts.of_certificates(*read_certificates(self._certificates), now)
        try:
            active += alerts.of_overview(self.reader.overview())
        except LedgerError as error:
            active.append(alerts.of_ledger(str(error), now))
        with self._lock:
            return self._alerts.dated(active)

    @contextmanager
    def refining(self) -> Iterator[None]:
        """Compute the smallest bounds in a low-priority process while the block runs."""
        stop = threading.Event()
        thread = threading.Thread(target=refine_until, args=(self.reader.bounds, stop), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(_STOP_SECONDS)
