"""Alerts that are posted: signed, once, again after a failure, to nowhere else."""

import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from dpbitfit_monitor import alerts
from dpbitfit_monitor.alerts import Alert, Kind, Severity
from dpbitfit_monitor.webhook import SIGNATURE, Webhook

from dpbitfit.errors import InputError

SECRET = "a secret of the operator"
NOW = datetime.now(UTC)
ONE = Alert(Kind.DRIFT, "north/letters/person", Severity.CRITICAL, NOW, "they disagree", "look")
TWO = Alert(Kind.SILENT, "south/letters/person", Severity.WARNING, NOW, "no answer", "look")
BLIND = alerts.of_ledger("it is locked", NOW)


class Receiver(HTTPServer):
    """What was posted, and what is answered."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = 200
        self.got: list[tuple[bytes, str]] = []
        self.url = f"http://127.0.0.1:{self.server_port}/alerts"

    @property
    def texts(self) -> list[str]:
        return [json.loads(body)["text"] for body, _ in self.got]


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        receiver: Any = self.server
        body = self.rfile.read(int(self.headers["Content-Length"]))
        receiver.got.append((body, self.headers[SIGNATURE]))
        self.send_response(receiver.status)
        self.send_header("Location", f"{receiver.url}/elsewhere")
        self.end_headers()

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(f"{SECRET}\n")
    return path


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_alert_is_posted_once_until_it_clears(receiver: Receiver, secret: Path) -> None:
    webhook = Webhook(receiver.url, secret)
    webhook.post([ONE])
    webhook.post([ONE, TWO])
    assert receiver.texts == [ONE.text, TWO.text]
    webhook.post([TWO])
    webhook.post([ONE, TWO])
    assert receiver.texts == [ONE.text, TWO.text, ONE.text]


def test_a_ledger_that_is_away_clears_nothing(receiver: Receiver, secret: Path) -> None:
    webhook = Webhook(receiver.url, secret)
    webhook.post([ONE])
    webhook.post([BLIND])
    webhook.post([ONE])
    webhook.post([BLIND])
    assert receiver.texts == [ONE.text, BLIND.text, BLIND.text]


def test_the_body_is_signed_and_says_what_the_alert_says(receiver: Receiver, secret: Path) -> None:
    Webhook(receiver.url, secret).post([ONE])
    ((body, signature),) = receiver.got
    wanted = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    assert signature == f"sha256={wanted}"
    content = json.loads(body)
    assert set(content) == {"kind", "subject", "severity", "since", "text", "advice"}
    assert (content["kind"], content["severity"]) == ("drift", "critical")


@pytest.mark.parametrize("status", [500, 404, 302, 307])
def test_a_failure_is_tried_again_later_and_later(
    status: int, receiver: Receiver, secret: Path
) -> None:
    time = Time()
    webhook = Webhook(receiver.url, secret, clock=time)
    receiver.status = status
    webhook.post([ONE, TWO])
    assert receiver.texts == [ONE.text]  # the other waits, too
    webhook.post([ONE, TWO])
    assert len(receiver.got) == 1
    pauses = []
    for _ in range(12):
        began = time.now
        before = len(receiver.got)
        while len(receiver.got) == before:
            time.now += 1
            webhook.post([ONE, TWO])
        pauses.append(time.now - began)
    assert pauses[:3] == [5, 10, 20]
    assert pauses[-1] == pauses[-2] == 900
    receiver.status = 200
    time.now += 900
    webhook.post([ONE, TWO])
    assert receiver.texts[-2:] == [ONE.text, TWO.text]


def test_an_address_where_no_server_listens_is_a_failure_like_any_other(secret: Path) -> None:
    Webhook("http://127.0.0.1:1/", secret).post([ONE])


@pytest.mark.parametrize(
    "url", ["http://example.com/", "ftp://127.0.0.1/", "file:///etc/passwd", "https://", "http://["]
)
def test_an_address_in_the_clear_is_refused(url: str, secret: Path) -> None:
    with pytest.raises(InputError, match="https"):
        Webhook(url, secret)


def test_a_secret_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        Webhook("https://example.com/", tmp_path / "absent")
    (tmp_path / "short").write_text("short\n")
    with pytest.raises(InputError, match="at least 16"):
        Webhook("https://example.com/", tmp_path / "short")
