"""Nothing is shown without a token or a certificate, and every answer is strict."""

import ssl
from dataclasses import replace
from pathlib import Path
from typing import cast

import httpx
import pytest
from dpbitfit_monitor.monitor import Monitor
from dpbitfit_monitor.page import access, auth_middleware
from dpbitfit_monitor.page.pages import Pages
from dpbitfit_monitor.tls import Tls
from dpbitfit_monitor.web import make_app
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from dpbitfit.ledger import Account

from ..support.certificates import Authority
from ..support.monitor_pages import HTML, OWN, monitor, out, page, stranger, token, token_file, url
from ..support.monitors import LOCAL, served

__all__ = ["monitor", "out", "page", "stranger", "token", "token_file", "url"]

# Of a monitor that is never called.
PATHS = [route.path for route in Pages(cast(Monitor, None)).routes()]
REAL = {"{site}/{dataset}/{unit}": "north/letters/person", "{run}": "r1"}


def real(path: str) -> str:
    for pattern, name in REAL.items():
        path = path.replace(pattern, name)
    return path


SHOWN = [real(path) for path in PATHS]


@pytest.mark.parametrize("path", [*SHOWN, "/absent", "/static", "/static/../", "//"])
def test_a_stranger_sees_nothing(path: str, north: Account, stranger: TestClient) -> None:
    for session in ("", "1.2.3.4", "x" * 5000):
        stranger.cookies.set("dpbitfit", session)
        answer = stranger.get(path)
        assert (answer.status_code, answer.text) == (401, "sign in first\n")
        answer = stranger.get(path, headers=HTML)
        assert answer.status_code == 303
        assert answer.headers["location"].startswith("/sign-in?next=%2F")
        assert stranger.post(path, headers=OWN).status_code == 401


@pytest.mark.parametrize("path", SHOWN)
def test_who_has_signed_in_sees_it(path: str, north: Account, page: TestClient) -> None:
    assert page.get(path).status_code == 200
    assert page.post(path, headers=OWN).status_code == 405


def test_what_needs_no_sign_in_shows_no_account(north: Account, stranger: TestClient) -> None:
    for path in ("/sign-in", "/healthz", "/static/page.css", "/static/page.js", "/static/icon.svg"):
        answer = stranger.get(path)
        assert answer.status_code == 200
        assert "north" not in answer.text


def test_every_answer_is_strict(
    north: Account, page: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("secret: Ms Smith")

    monkeypatch.setattr("dpbitfit_monitor.page.charts.of_run", fail)
    statuses = []
    for path in ("/", "/sign-in", "/absent", "/static/page.js", "/accounts/a/b/c", "/runs/r1"):
        answer = page.get(path)
        statuses.append(answer.status_code)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert ("no-store" in answer.headers["cache-control"]) == ("static" not in path)
        assert "Traceback" not in answer.text
        assert "Smith" not in answer.text
    assert statuses == [200, 303, 404, 200, 404, 500]


def test_signing_in_and_out(north: Account, stranger: TestClient, token: str) -> None:
    form = {"token": f" {token} "}
    answer = stranger.post("/sign-in?next=/runs", data=form, headers=OWN)
    assert (answer.status_code, answer.headers["location"]) == (303, "/runs")
    cookie = answer.headers["set-cookie"]
    for word in ("HttpOnly", "SameSite=strict", "Max-Age=28800", "Path=/"):
        assert word in cookie
    assert "Secure" not in cookie
    session = stranger.cookies["dpbitfit"]
    assert "Dr. Jensen" in stranger.get("/").text
    assert stranger.post("/sign-out", headers=OWN).headers["location"] == "/sign-in"
    assert stranger.get("/").status_code == 401
    stranger.cookies.set("dpbitfit", session)  # a copy of it
    assert stranger.get("/").status_code == 401


def test_behind_tls_the_cookie_is_for_tls_and_this_host(stranger: TestClient, token: str) -> None:
    address = "https://testserver/sign-in"
    cookie = stranger.post(address, data={"token": token}, headers=OWN).headers["set-cookie"]
    assert cookie.startswith("__Host-dpbitfit=")
    assert "Secure" in cookie


@pytest.mark.parametrize(
    ("headers", "is_own"),
    [
        (OWN, True),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://testserver"}, False),
        ({"Origin": "http://testserver"}, True),
        ({"Origin": "http://testserver.example"}, False),
        ({"Origin": "null"}, False),
        ({}, False),
    ],
)
def test_only_the_pages_own_form_counts(
    headers: dict[str, str], is_own: bool, page: TestClient, token: str
) -> None:
    assert page.post("/sign-out", headers=headers).status_code == (303 if is_own else 403)
    page.cookies.clear()
    answer = page.post("/sign-in", data={"token": token}, headers=headers)
    assert answer.status_code == (303 if is_own else 403)


def test_wrong_tokens_are_refused_and_soon_not_even_read(stranger: TestClient, token: str) -> None:
    wrongs = ["", "wrong", token[:-1], "ü" * 9, "x" * 10_000]
    for wrong in wrongs[: access.MOST_FAILURES]:
        answer = stranger.post("/sign-in", data={"token": wrong}, headers=OWN)
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers
    answer = stranger.post("/sign-in", data={"token": token}, headers=OWN)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "300")
    assert stranger.get("/").status_code == 401


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.text(max_size=30)
    | st.sampled_from(["//evil.example", "/\\evil.example", "https://evil.example", "/a\r\nb: c"])
)
def test_signing_in_leads_nowhere_else(page: TestClient, wanted: str) -> None:
    answer = page.get("/sign-in", params={"next": wanted})
    assert answer.status_code == 303
    location = answer.headers["location"]
    assert location.startswith("/")
    assert not location.startswith(("//", "/\\", "/%5C"))


def test_without_a_token_file_no_one_signs_in(monitor: Monitor) -> None:
    client = TestClient(make_app(monitor, None, is_local=True), follow_redirects=False)
    assert "dpbitfit monitor token" in client.get("/sign-in").text
    assert client.post("/sign-in", data={"token": "x"}, headers=OWN).status_code == 403
    assert client.get("/").status_code == 401


def test_a_client_certificate_is_enough(north: Account, monitor: Monitor, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    tls = Tls(*authority.issue("server"), authority.certificate)
    (tmp_path / "elsewhere").mkdir()
    theirs = Authority(tmp_path / "elsewhere", "authority").issue("officer")
    with served(monitor, replace(LOCAL, tls=tls)) as at:

        def get(certificate: tuple[Path, Path] | None) -> httpx.Response:
            context = ssl.create_default_context(cafile=authority.certificate)
            if certificate:
                context.load_cert_chain(*certificate)
            address = f"https://localhost:{at.http.port}/"
            return httpx.get(address, verify=context, trust_env=False)

        assert get(None).status_code == 401
        answer = get(authority.issue("officer"))
        assert answer.status_code == 200
        assert "<span>officer</span>" in answer.text
        assert auth_middleware.SIGN_OUT not in answer.text
        with pytest.raises((httpx.TransportError, ssl.SSLError)):
            get(theirs)
