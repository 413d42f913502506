"""The monitor's page for tests: signed in, or not."""

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from dpbitfit_monitor.monitor import Monitor
from dpbitfit_monitor.page.access import Tokens, make_token
from dpbitfit_monitor.reader import LedgerViews
from dpbitfit_monitor.web import make_app
from starlette.testclient import TestClient

from ..monitor.test_runs import LINE, folder

OWN = {"Sec-Fetch-Site": "same-origin"}
HTML = {"Accept": "text/html"}


class Words(HTMLParser):
    """A page's text, and the names of its elements."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.elements = "", list[tuple[str, dict[str, str | None]]]()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("td", "th"):
            self.text += " "

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A page is the same on every database."""
    return str(tmp_path / "ledger.sqlite")


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    return tmp_path / "tokens"


@pytest.fixture
def token(token_file: Path) -> str:
    secret, line = make_token("Dr. Jensen")
    token_file.write_text(f"# who may look\n{line}\n")
    return secret


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return folder(
        tmp_path / "runs" / "out",
        LINE,
        {**LINE, "round": 1, "metrics": {"accuracy": 0.75, "loss": None}},
    )


@pytest.fixture
def monitor(reader: LedgerViews, out: Path, monkeypatch: pytest.MonkeyPatch) -> Monitor:
    monkeypatch.setattr("dpbitfit_monitor.reader.FRESH_SECONDS", 0)
    monkeypatch.setattr("dpbitfit_monitor.monitor.RUNS_SECONDS", 0)
    return Monitor(reader, [out.parent])


@pytest.fixture
def stranger(monitor: Monitor, token: str, token_file: Path) -> Iterator[TestClient]:
    """A viewer who has not signed in."""
    app = make_app(monitor, None, is_local=True, page_tokens=Tokens(token_file))
    with TestClient(app, follow_redirects=False, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def page(stranger: TestClient, token: str) -> TestClient:
    """A viewer who has signed in."""
    assert stranger.post("/sign-in", data={"token": token}, headers=OWN).status_code == 303
    return stranger
