"""The environment of Flower's tools, and the bundle that they are given."""

import http.server
import tomllib
import urllib.request
from pathlib import Path
from threading import Thread

import httpx
import pytest

from dpbitfit import simulate
from dpbitfit.errors import RunFailed
from dpbitfit.flower_tools import environment, write_app

DEAD = "http://127.0.0.1:9"
PROXIES = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")


class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class Alive:
    """In place of a process that runs."""

    def poll(self) -> None:
        return None


@pytest.mark.parametrize("variable", [*PROXIES, "all of them"])
def test_this_machine_is_asked_without_the_proxy(
    variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in PROXIES if variable == "all of them" else [variable]:
        monkeypatch.setenv(name, DEAD)
    server = http.server.HTTPServer(("127.0.0.1", 0), Health)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        monkeypatch.setattr(simulate, "START_SECONDS", 10)
        simulate._await_health(server.server_port, Alive(), tmp_path / "log")  # type: ignore[arg-type]
        # As Flower's own tools ask, with our variables.
        for name, value in environment({"PATH": "", **{variable: DEAD}}).items():
            if name in ("NO_PROXY", "no_proxy"):
                monkeypatch.setenv(name, value)
        for host in ("127.0.0.1", "localhost"):
            url = f"http://{host}:{server.server_port}/health"
            assert httpx.get(url).status_code == 200
            urllib.request.urlopen(url).close()
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_hosts_that_had_no_proxy_have_none_still(name: str) -> None:
    variables = environment({name: "intranet.example,10.0.0.0/8", "PATH": "/bin"})
    for spelling in ("NO_PROXY", "no_proxy"):
        assert set(variables[spelling].split(",")) >= {"intranet.example", "127.0.0.1", "localhost"}
    assert variables["PATH"].endswith(":/bin")


def test_what_does_not_answer_is_not_waited_for_longer_than_it_lives(tmp_path: Path) -> None:
    class Dead:
        def poll(self) -> int:
            return 1

    with pytest.raises(RunFailed, match="did not start"):
        simulate._await_health(9, Dead(), tmp_path / "log")  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["/data/Müller 🏥/x.csv", 'a "quoted" \\ name', "{braces}", ""])
def test_the_bundle_holds_any_text(text: str, tmp_path: Path) -> None:
    write_app(tmp_path / "app", {"out": text, "rounds": 3, "resume": True})
    project = tomllib.loads((tmp_path / "app" / "pyproject.toml").read_text("utf-8"))
    assert project["tool"]["flwr"]["app"]["config"] == {"out": text, "rounds": 3, "resume": True}
