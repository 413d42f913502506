"""Certificates that are renewed while the monitor serves."""

import os
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from dpbitfit_monitor.addresses import Address
from dpbitfit_monitor.client import MonitorClient
from dpbitfit_monitor.monitor import Monitor
from dpbitfit_monitor.reader import LedgerViews
from dpbitfit_monitor.serve import Serving
from dpbitfit_monitor.tls import Tls

from dpbitfit.ledger import Account

from ..support.certificates import Authority
from ..support.monitors import LOCAL, served

PATIENCE_SECONDS = 60


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


@pytest.fixture
def at(authority: Authority, north: Account, reader: LedgerViews) -> Iterator[Serving]:
    tls = Tls(*authority.issue("server"), authority.certificate)
    authority.issue("client")
    with served(Monitor(reader), replace(LOCAL, tls=tls)) as at:
        # The server may not have read the files yet, which a test is about to change.
        assert shown(at.grpc, authority) == shown(at.http, authority)
        yield at


def serial(path: Path) -> int:
    return x509.load_pem_x509_certificate(path.read_bytes()).serial_number


def shown(address: Address, authority: Authority) -> int:
    """The serial number of the certificate that a new connection is shown."""
    context = ssl.create_default_context(cafile=authority.certificate)
    context.load_cert_chain(authority.folder / "client.crt", authority.folder / "client.key")
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(address, PATIENCE_SECONDS) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        der = secured.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number


def becomes(address: Address, authority: Authority, wanted: int) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while shown(address, authority) != wanted:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_renewed_certificate_is_shown_and_no_client_is_cut_off(
    at: Serving, authority: Authority
) -> None:
    mine, key = authority.folder / "client.crt", authority.folder / "client.key"
    target = f"localhost:{at.grpc.port}"
    with MonitorClient(target, ca=authority.certificate, certificate=mine, key=key) as client:
        assert len(list(client.accounts())) == 1
        first = serial(authority.folder / "server.crt")
        assert {shown(at.grpc, authority), shown(at.http, authority)} == {first}
        renewed, _ = authority.issue("server")
        assert serial(renewed) != first
        becomes(at.grpc, authority, serial(renewed))
        becomes(at.http, authority, serial(renewed))
        assert len(list(client.accounts())) == 1


@pytest.mark.parametrize("damage", ["another key", "cut off", "gone"])
def test_until_the_files_fit_the_last_valid_certificate_stays(
    damage: str, at: Serving, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    first = serial(authority.folder / "server.crt")
    key, saved = authority.folder / "server.key", authority.folder / "saved.key"
    os.replace(key, saved)
    if damage == "another key":
        key.write_bytes((authority.folder / "client.key").read_bytes())
    elif damage == "cut off":
        key.write_bytes(saved.read_bytes()[:40])
    deadline = time.monotonic() + PATIENCE_SECONDS
    while "the last valid certificate stays in use" not in caplog.text:
        assert shown(at.http, authority) == first
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert {shown(at.grpc, authority), shown(at.http, authority)} == {first}
    renewed, _ = authority.issue("server")
    becomes(at.grpc, authority, serial(renewed))
    becomes(at.http, authority, serial(renewed))
