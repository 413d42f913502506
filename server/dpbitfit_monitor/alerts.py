"""Alerts: what needs attention, and what to do about it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path

from dpbitfit.ledger.exchange import REPLACED
from dpbitfit_monitor.certificates import CertificateView
from dpbitfit_monitor.views import CLOSE, NEAR, SPENT, THRESHOLDS, AccountView, Overview

LEDGER = "ledger"
EXPIRES_SOON, EXPIRES_NOW = timedelta(days=30), timedelta(days=7)


class Kind(StrEnum):
    """What an alert is about."""

    BUDGET = "budget"
    SILENT = "silent"
    DRIFT = "drift"
    ORPHAN = "orphan"
    CERTIFICATE = "certificate"
    UNREADABLE = "unreadable"


class Severity(StrEnum):
    """How urgent it is."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True)
class Alert:
    """One alert; ``subject`` is an account, a certificate's file, or "ledger".

    ``since`` is when it began, or was first noticed.
    """

    kind: Kind
    subject: str
    severity: Severity
    since: datetime
    text: str
    advice: str

    @property
    def key(self) -> tuple[str, ...]:
        """The same for the same alert at another time; a more severe alert has another key."""
        return (self.kind, self.subject, self.severity, self.text)


class Alerts:
    """Remembers since when each alert is active."""

    def __init__(self) -> None:
        self._since: dict[tuple[str, ...], datetime] = {}

    def dated(self, active: Iterable[Alert]) -> tuple[Alert, ...]:
        """These alerts, most severe first, each with the time at which it was first noticed."""
        alerts = [replace(alert, since=self._since.get(alert.key, alert.since)) for alert in active]
        known = {alert.key: alert.since for alert in alerts}
        # While the ledger cannot be read, earlier alerts are neither active nor cleared.
        self._since = self._since | known if is_blind(alerts) else known
        order = list(Severity)[::-1]
        return tuple(sorted(alerts, key=lambda alert: (order.index(alert.severity), alert.since)))


def is_blind(alerts: Iterable[Alert]) -> bool:
    """Whether the accounts are unknown, because the ledger cannot be read."""
    return any(alert.kind == Kind.UNREADABLE and alert.subject == LEDGER for alert in alerts)


def of_overview(overview: Overview) -> list[Alert]:
    """The alerts of every account."""
    alerts = [alert for view in overview.accounts for alert in _of_account(view, overview.at)]
    for account in overview.unreadable:
        text = f"{account.name}: no figure can be shown: {account.problem}"
        advice = (
            "run: dpbitfit ledger verify; restore a backup, then run: dpbitfit ledger settle "
            "--rebase"
        )
        severity = Severity.CRITICAL
        alerts.append(
            Alert(Kind.UNREADABLE, str(account.name), severity, overview.at, text, advice)
        )
    return alerts


def of_ledger(problem: str, at: datetime) -> Alert:
    """The alert that the ledger as a whole cannot be read."""
    advice = "until it can be read again, no account's figures are known"
    return Alert(Kind.UNREADABLE, LEDGER, Severity.CRITICAL, at, problem, advice)


def of_certificates(
    certificates: Iterable[CertificateView], unreadable: Iterable[Path], at: datetime
) -> list[Alert]:
    """The alerts of certificates that expire within a month, or cannot be read."""
    alerts = []
    for path in unreadable:
        text = f"{path.name}: no certificate can be read from this file"
        advice = "check that the file exists, is PEM, and is readable"
        alerts.append(Alert(Kind.CERTIFICATE, path.name, Severity.WARNING, at, text, advice))
    for certificate in certificates:
        left = certificate.not_after - at
        if left < EXPIRES_SOON:
            verb = "expires" if left > timedelta(0) else "expired"
            holder = f"the certificate of {certificate.subject} in {certificate.file}"
            text = f"{holder} {verb} on {certificate.not_after:%d %B %Y}"
            severity = Severity.CRITICAL if left < EXPIRES_NOW else Severity.WARNING
            advice = "have your certificate authority renew it; no site has to enrol again"
            since = certificate.not_after - EXPIRES_SOON
            alerts.append(Alert(Kind.CERTIFICATE, certificate.file, severity, since, text, advice))
    return alerts


def _of_account(view: AccountView, at: datetime) -> Iterator[Alert]:
    subject = str(view.name)
    if view.reached:
        severity = Severity.INFO
        if view.reached >= NEAR:
            severity = Severity.CRITICAL if view.reached >= CLOSE else Severity.WARNING
        text = (
            f"{subject}: {THRESHOLDS[view.reached]} of its budget of epsilon {view.budget:g} at "
            f"delta {view.delta:g} is spent"
        )
        advice = "plan with what is left: dpbitfit plan"
        if view.reached == SPENT:
            advice = "nothing more can be approved; a budget is not renewed for the same records"
        yield Alert(Kind.BUDGET, subject, severity, at, text, advice)
    if view.asked_since is not None and view.silent:
        text = f"{subject}: requested on {view.asked_since:%d %B %Y, %H:%M} UTC, no reply since"
        advice = "check the site's SuperNode and its log"
        yield Alert(Kind.SILENT, subject, Severity.WARNING, view.asked_since, text, advice)
    if view.drift:
        text = f"{subject}: {view.drift}"
        advice = "compare both ledgers, then run on both: dpbitfit ledger settle --rebase"
        if view.drift == REPLACED:
            advice = (
                "ask the site's operator: if its ledger was replaced, run, with its statement: "
                "dpbitfit ledger settle --rebase --from FILE; else without --from"
            )
        yield Alert(Kind.DRIFT, subject, Severity.CRITICAL, at, text, advice)
    if view.open_since is not None and view.orphaned:
        text = (
            f"{subject}: the outcome of a round of {view.open_since:%d %B %Y, %H:%M} UTC is unknown"
        )
        advice = (
            "a round with unknown outcome counts as spent; "
            "go on with --resume, or run: dpbitfit ledger settle"
        )
        yield Alert(Kind.ORPHAN, subject, Severity.WARNING, view.open_since, text, advice)
