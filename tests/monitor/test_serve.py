"""``dpbitfit monitor serve`` as a process: it starts, says why not, and ends on a signal."""

import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from dpbitfit_monitor import web
from dpbitfit_monitor.client import MonitorClient
from dpbitfit_monitor.monitor import Monitor
from dpbitfit_monitor.reader import LedgerViews

from dpbitfit.cli import main
from dpbitfit.ledger import Ledger
from tests.support.ledgers import account, new_ledger

from ..support import warm
from ..support.certificates import Authority
from ..support.monitors import code_of, free_port, served
from .test_runs import LINE, folder


@contextmanager
def process(*words: str, log: Path, fresh: bool = False) -> Iterator[tuple[Any, int, int]]:
    """A monitor of its own; killed with the block where it still runs.

    A fresh one is a Python that has imported nothing.
    """
    grpc_port, http_port = free_port(), free_port()
    addresses = ("--grpc", f"127.0.0.1:{grpc_port}", "--http", f"127.0.0.1:{http_port}")
    words = ("monitor", "serve", *addresses, *words)
    with log.open("wb") as file, ExitStack() as stack:
        output: Any = {"stdout": file, "stderr": file}
        running: subprocess.Popen[bytes] | warm.Process
        if fresh:
            command = [sys.executable, "-c", warm.MAIN, *words]
            running = stack.enter_context(subprocess.Popen(command, **output))
        else:
            running = stack.enter_context(warm.Process(warm.MAIN, *words, **output))
        try:
            yield running, grpc_port, http_port
        finally:
            running.kill()


def status(port: int) -> int:
    """Of /healthz, as soon as somebody answers."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        try:
            with opener.open(f"http://127.0.0.1:{port}/healthz", timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            time.sleep(0.1)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = new_ledger(tmp_path)
    account(made)
    return made


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_on_a_signal_while_clients_watch(
    number: signal.Signals, ledger: Ledger, tmp_path: Path
) -> None:
    out, log = folder(tmp_path / "out", LINE), tmp_path / "log"
    words = ("--ledger", str(ledger.database), "--runs", str(out))
    with process(*words, log=log) as (running, grpc_port, http_port):
        assert status(http_port) == 200
        with MonitorClient(f"127.0.0.1:{grpc_port}") as client:
            assert len(list(client.accounts())) == 1
            stream = client.rounds()
            assert next(stream).round == 0
            running.send_signal(number)
            with pytest.raises(grpc.RpcError) as raised:
                next(stream)
            assert code_of(raised.value) in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        assert running.wait(60) == 0
    assert "Traceback" not in log.read_text()


def test_a_ledger_may_come_later(tmp_path: Path) -> None:
    log = tmp_path / "log"
    words = ("--ledger", str(tmp_path / "ledger.sqlite"))
    with process(*words, log=log, fresh=True) as (running, _, port):
        assert status(port) == 503
        made = new_ledger(tmp_path)
        account(made)
        while status(port) != 200:
            assert running.poll() is None
    assert "no ledger here" in log.read_text()
    assert "Traceback" not in log.read_text()


def test_what_cannot_be_served_is_an_error_of_one_line(
    ledger: Ledger,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a secret of the operator")
    certificate, key = Authority(tmp_path, "authority").issue("server")
    for words, expected in (
        (("--http", "0.0.0.0:8443"), "not this machine's own"),
        (("--grpc", "nowhere"), "HOST:PORT"),
        (("--certificate", str(certificate)), "belong together"),
        (("--token-file", str(tmp_path / "absent")), "cannot be read"),
        (("--webhook", "https://example.com/"), "--webhook-secret-file"),
        (("--webhook", "http://example.com/", "--webhook-secret-file", str(secret)), "https"),
        (("--watch-certificates", str(key)), "no certificate"),
    ):
        command = ["dpbitfit", "monitor", "serve", "--ledger", str(ledger.database), *words]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as ended:
            main()
        error = " ".join(capsys.readouterr().err.split())
        assert (ended.value.code, expected in error) == (2, True), error


def test_an_address_that_is_in_use_is_an_error(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tmp_path / "first"
    with process("--ledger", str(ledger.database), log=first) as (_, grpc_port, http_port):
        assert status(http_port) == 200
        for word, port in (("--grpc", grpc_port), ("--http", http_port)):
            log = tmp_path / word
            words = ("--ledger", str(ledger.database), word, f"127.0.0.1:{port}")
            with process(*words, log=log) as (running, _, _):
                assert running.wait(60) == 2
            assert "cannot listen here" in log.read_text()
            assert "Traceback" not in log.read_text()


def test_who_begins_a_request_and_does_not_end_it_is_not_waited_for(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else connections without a certificate would take every file descriptor."""
    monkeypatch.setattr(web, "REQUEST_SECONDS", 1.0)
    whole = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with served(Monitor(LedgerViews(str(ledger.database)))) as at:
        for before, part in ((b"", b""), (b"", whole[:-4]), (whole, whole[:-4])):
            with socket.create_connection(at.http, timeout=60) as connection:
                connection.sendall(before)
                if before:
                    assert b"200 OK" in connection.recv(1 << 16)
                connection.sendall(part)
                while connection.recv(1 << 16):
                    pass  # until the monitor has closed it
