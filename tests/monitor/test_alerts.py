"""What alerts: each of the kinds, at its time, once."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from dpbitfit_monitor import alerts
from dpbitfit_monitor.alerts import Alert, Alerts, Kind, Severity
from dpbitfit_monitor.certificates import CertificateView, read_certificates
from dpbitfit_monitor.monitor import Monitor
from dpbitfit_monitor.reader import ORPHAN_AFTER, SILENT_AFTER, LedgerViews

from dpbitfit.accounting import composition
from dpbitfit.ledger import Account, Ledger, schema
from tests.support.ledgers import DELTA, NAME, STEP

from ..support.certificates import Authority
from .conftest import Clock

NOW = datetime.now(UTC)


def kinds(active: tuple[Alert, ...]) -> list[Kind]:
    return [alert.kind for alert in active]


def test_no_alert_where_all_is_well(north: Account, south: Account, reader: LedgerViews) -> None:
    assert Monitor(reader).alerts() == ()


@pytest.mark.parametrize(
    ("part", "text", "severity"),
    [
        (0.51, "50 %", Severity.INFO),
        (0.81, "80 %", Severity.WARNING),
        (0.951, "95 %", Severity.CRITICAL),
        (0.996, "100 %", Severity.CRITICAL),
    ],
)
def test_a_budget_alerts_at_each_threshold(
    part: float,
    text: str,
    severity: Severity,
    north: Account,
    reader: LedgerViews,
    refined: Callable[[LedgerViews], LedgerViews],
    ledger: Ledger,
) -> None:
    spent = composition.epsilon({STEP: 40}, DELTA).epsilon
    ledger.set_budget(NAME, spent / part, "for the test")
    assert Monitor(reader).alerts() == ()  # not by a bound that may be too high
    (alert,) = Monitor(refined(reader)).alerts()
    assert (alert.kind, alert.subject, alert.severity) == (Kind.BUDGET, str(NAME), severity)
    assert text in alert.text
    assert alert.advice


def test_silence_orphans_and_drift_alert_with_their_beginning(
    north: Account, reader: LedgerViews, ledger: Ledger, clock: Clock
) -> None:
    clock.later = max(SILENT_AFTER, ORPHAN_AFTER) + timedelta(hours=1)
    requested = reader.overview().accounts[0].asked_since
    active = Monitor(reader).alerts()
    assert set(kinds(active)) == {Kind.SILENT, Kind.ORPHAN}
    assert {alert.since for alert in active} == {requested}
    peer = {"ledger": "b" * 64, "coordinator": "b" * 64, "sequence": 9, "head": "d" * 64}
    with ledger.database.write() as connection:
        drifted = {**peer, "spent": "[]", "drift": "a backup was restored"}
        connection.execute(sa.insert(schema.peer).values(account_id=north.id, **drifted))
    reader.overview(fresh=True)
    worst, *_ = Monitor(reader).alerts()
    assert (worst.kind, worst.severity) == (Kind.DRIFT, Severity.CRITICAL)
    assert "settle --rebase" in worst.advice


def test_an_unreadable_account_and_an_unreadable_ledger_alert(
    north: Account, reader: LedgerViews, ledger: Ledger, tmp_path: Path
) -> None:
    with ledger.database.write() as connection:
        connection.execute(sa.update(schema.account).values(budget="many"))
    (alert,) = Monitor(reader).alerts()
    assert (alert.kind, alert.subject) == (Kind.UNREADABLE, str(NAME))
    (alert,) = active = Monitor(LedgerViews(str(tmp_path / "absent"))).alerts()
    assert (alert.kind, alert.subject) == (Kind.UNREADABLE, alerts.LEDGER)
    assert alerts.is_blind(active)


@pytest.mark.parametrize(
    ("days", "severity"),
    [(31, None), (29, Severity.WARNING), (6, Severity.CRITICAL), (-1, Severity.CRITICAL)],
)
def test_a_certificate_alerts_a_month_before_its_end(days: int, severity: Severity | None) -> None:
    certificate = CertificateView("node.crt", "hospital-1", NOW + timedelta(days=days))
    active = alerts.of_certificates([certificate], [], NOW)
    assert [alert.severity for alert in active] == ([severity] if severity else [])
    for alert in active:
        assert "hospital-1" in alert.text
        assert ("expired" in alert.text) == (days < 0)


def test_since_is_the_first_time_and_survives_a_ledger_that_is_away() -> None:
    def alert(minute: int, kind: Kind = Kind.DRIFT, subject: str = "a") -> Alert:
        since = NOW + timedelta(minutes=minute)
        return Alert(kind, subject, Severity.CRITICAL, since, "text", "advice")

    active = Alerts()
    assert active.dated([alert(0)])[0].since == NOW
    assert active.dated([alert(5)])[0].since == NOW
    assert kinds(active.dated([alert(6, Kind.UNREADABLE, alerts.LEDGER)])) == [Kind.UNREADABLE]
    assert active.dated([alert(7)])[0].since == NOW
    assert active.dated([]) == ()
    assert active.dated([alert(8)])[0].since == NOW + timedelta(minutes=8)


def test_certificates_are_read_from_files_and_folders(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    authority.issue("hospital-1", days=20)
    views, failed = read_certificates([tmp_path])
    assert not failed
    assert [view.file for view in views] == ["authority.crt", "hospital-1.crt"]
    assert [view.subject for view in views] == ["authority", "hospital-1"]
    assert views == read_certificates([tmp_path / view.file for view in views])[0]
    assert timedelta(days=19) < views[1].not_after - NOW < timedelta(days=21)


def test_a_certificate_that_cannot_be_read_alerts_and_hides_no_other(
    reader: LedgerViews, tmp_path: Path
) -> None:
    Authority(tmp_path, "authority")
    (tmp_path / "other.pem").write_text("no certificate")
    monitor = Monitor(reader, certificates=[tmp_path / "absent.crt", tmp_path])
    assert [view.subject for view in monitor.certificates()] == ["authority"]
    assert {alert.subject for alert in monitor.alerts()} == {"absent.crt", "other.pem"}
    assert {alert.kind for alert in monitor.alerts()} == {Kind.CERTIFICATE}
