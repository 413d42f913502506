"""Alerts as signed messages to an address that the operator names.

A POST of JSON for each alert, once until it clears; after a restart the active
alerts are sent once more. The body is signed with the secret: the header
``X-Dpbitfit-Signature`` is ``sha256=`` and the HMAC in hexadecimal.
"""

import hashlib
import hmac
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from http.client import HTTPException
from logging import getLogger
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dpbitfit.errors import InputError
from dpbitfit_monitor import describe
from dpbitfit_monitor.addresses import is_loopback
from dpbitfit_monitor.alerts import Alert, is_blind
from dpbitfit_monitor.bearer import read_secret

SIGNATURE = "X-Dpbitfit-Signature"
TIMEOUT_SECONDS = 10.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 5.0, 900.0

_log = getLogger(__name__)


class Webhook:
    """An address that alerts are posted to: https, or http to this machine."""

    def __init__(
        self, url: str, secret_file: Path, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._url = _checked(url)
        self._secret = read_secret(secret_file)
        self._clock = clock
        self._sent: set[tuple[str, ...]] = set()
        self._pause = 0.0
        self._not_before = 0.0
        self._opener = urllib.request.build_opener(_NoRedirect)

    def post(self, alerts: Iterable[Alert]) -> None:
        """Post each alert that has not been posted; after a failure, pause before the next."""
        active = list(alerts)
        if not is_blind(active):
            self._sent &= {alert.key for alert in active}
        for alert in active:
            if alert.key in self._sent or self._clock() < self._not_before:
                continue
            try:
                self._send(alert)
            except (OSError, HTTPException) as error:  # a URLError is an OSError
                self._pause = min(max(FIRST_PAUSE_SECONDS, 2 * self._pause), LONGEST_PAUSE_SECONDS)
                self._not_before = self._clock() + self._pause
                _log.warning(
                    "the webhook did not accept an alert (%s); next attempt in %.0f s",
                    error,
                    self._pause,
                )
            else:
                self._pause = 0.0
                self._sent.add(alert.key)

    def _send(self, alert: Alert) -> None:
        body = json.dumps(describe.alert(alert)).encode()
        signature = hmac.new(self._secret, body, hashlib.sha256).hexdigest()
        headers = {"Content-Type": "application/json", SIGNATURE: f"sha256={signature}"}
        request = urllib.request.Request(self._url, body, headers, method="POST")
        with self._opener.open(request, timeout=TIMEOUT_SECONDS):
            pass


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect leads to an address that the operator did not name."""

    def redirect_request(self, *_: Any) -> None:
        """Follow no redirect: the response counts as a failure."""
        return


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.hostname and (
            parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname))
        )
    except ValueError:
        usable = False
    if not usable:
        raise InputError("a webhook's address is https://..., or http:// to this machine")
    return url
