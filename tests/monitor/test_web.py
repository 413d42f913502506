"""HTTP: who may scrape, and what is shown of a ledger that is away."""

import ssl
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from dpbitfit_monitor.monitor import Monitor
from dpbitfit_monitor.reader import LedgerViews
from dpbitfit_monitor.serve import Serving
from dpbitfit_monitor.tls import Tls
from dpbitfit_monitor.web import make_app

from dpbitfit.ledger import Account, Ledger, schema

from ..support.certificates import Authority
from ..support.monitors import LOCAL, served

TOKEN = "our token of 20 chars"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def asking(
    monitor: Monitor, token: bytes | None = None, is_local: bool = True
) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(make_app(monitor, token, is_local))
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")


@pytest.mark.parametrize(
    ("token", "is_local", "given", "status"),
    [
        (None, True, {}, 200),
        (None, True, {"Host": "localhost:8080"}, 200),
        (None, True, {"Host": "rebound.example"}, 401),  # a page's, by a name of its own
        (TOKEN, True, {"Host": "monitor.example", **BEARER}, 200),
        (None, False, {}, 401),
        (None, False, BEARER, 401),
        (TOKEN, True, {}, 401),
        (TOKEN, False, {}, 401),
        (TOKEN, False, {"Authorization": "Bearer another"}, 401),
        (TOKEN, False, {"Authorization": TOKEN}, 401),
        (TOKEN, False, BEARER, 200),
    ],
)
@pytest.mark.anyio
async def test_who_may_scrape(
    token: str | None, is_local: bool, given: dict[str, str], status: int, reader: LedgerViews
) -> None:
    secret = token.encode() if token else None
    async with asking(Monitor(reader), secret, is_local) as client:
        answer = await client.get("/metrics", headers=given)
        assert answer.status_code == status
        assert ("dpbitfit_" in answer.text) == (status == 200)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
async def test_a_ledger_that_is_away_is_reported(
    north: Account, reader: LedgerViews, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpbitfit_monitor.reader.FRESH_SECONDS", 0)
    async with asking(Monitor(reader)) as client:
        assert (await client.get("/healthz")).status_code == 200
        assert "dpbitfit_client_epsilon_accrued{" in (await client.get("/metrics")).text
        with ledger.database.write() as connection:
            connection.exec_driver_sql(f"UPDATE {schema.VERSION_TABLE} SET version_num = '9999'")
        health = await client.get("/healthz")
        assert (health.status_code, health.text) == (503, "the ledger cannot be read\n")
        scraped = await client.get("/metrics")
        assert scraped.status_code == 200
        assert "dpbitfit_ledger_readable 0.0" in scraped.text
        assert "dpbitfit_client_" not in scraped.text


@pytest.mark.anyio
async def test_nothing_else_is_there(reader: LedgerViews) -> None:
    async with asking(Monitor(reader)) as client:
        for path in ("/", "/metrics/..", "/..%2f..%2fetc/passwd", "/metrics/../../etc/passwd"):
            answer = await client.get(path)  # see test_auth_middleware.py
            assert (answer.status_code, answer.text) == (401, "sign in first\n")
        assert (await client.post("/metrics")).status_code == 405


def get(at: Serving, authority: Authority, certificate: tuple[Path, Path] | None = None) -> int:
    context = ssl.create_default_context(cafile=authority.certificate)
    if certificate:
        context.load_cert_chain(*certificate)
    url = f"https://localhost:{at.http.port}/metrics"
    return httpx.get(url, verify=context, trust_env=False).status_code


def test_a_client_certificate_opens_what_a_token_would(
    north: Account, reader: LedgerViews, tmp_path: Path
) -> None:
    authority = Authority(tmp_path, "authority")
    tls = Tls(*authority.issue("server"), authority.certificate)
    (tmp_path / "stranger").mkdir()
    stranger = Authority(tmp_path / "stranger", "authority").issue("client")
    with served(Monitor(reader), replace(LOCAL, tls=tls, metrics_token=TOKEN.encode())) as at:
        assert get(at, authority) == 401
        assert get(at, authority, authority.issue("client")) == 200
        with pytest.raises((httpx.TransportError, ssl.SSLError)):
            get(at, authority, stranger)
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://{at.http}/metrics", trust_env=False)
