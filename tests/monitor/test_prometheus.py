"""A real Prometheus checks the rules, scrapes a real monitor, and raises its alerts."""

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from dpbitfit_monitor.monitor import Monitor
from dpbitfit_monitor.reader import LedgerViews

from dpbitfit.accounting import composition
from dpbitfit.ledger import Account, Ledger, schema
from tests.conftest import ROOT
from tests.support.ledgers import DELTA, NAME, OTHER, STEP

from ..support.monitors import LOCAL, free_port, served

DEPLOY = ROOT / "deploy" / "prometheus"
TOKEN = "our token of 20 chars"
SECONDS = 60


def program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"no {name} on the path: it is in Debian's package prometheus")
    return path


@pytest.mark.parametrize(
    "words",
    [
        ("check", "rules", "dpbitfit.rules.yml"),
        ("test", "rules", "dpbitfit.rules.test.yml"),
        ("check", "config", "--syntax-only", "prometheus.yml"),
    ],
)
def test_the_rules_pass_their_own_tests(words: tuple[str, ...]) -> None:
    command = [program("promtool"), *words]
    done = subprocess.run(command, cwd=DEPLOY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_rule_is_tested() -> None:
    rules = (DEPLOY / "dpbitfit.rules.yml").read_text()
    tests = (DEPLOY / "dpbitfit.rules.test.yml").read_text()
    for line in rules.splitlines():
        if "- alert: " in line:
            assert f"alertname: {line.split()[-1]}" in tests


def test_metrics_have_the_form_that_promtool_wants(north: Account, reader: LedgerViews) -> None:
    from dpbitfit_monitor.metrics import exposition

    command = [program("promtool"), "check", "metrics"]
    done = subprocess.run(command, input=exposition(Monitor(reader)), capture_output=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_a_real_prometheus_scrapes_and_alerts(
    north: Account,
    south: Account,
    reader: LedgerViews,
    refined: Callable[[LedgerViews], LedgerViews],
    ledger: Ledger,
    tmp_path: Path,
) -> None:
    prometheus = program("prometheus")
    spent = composition.epsilon({STEP: 40}, DELTA).epsilon
    ledger.set_budget(NAME, spent / 0.96, "for the test")
    peer = {"ledger": "b" * 64, "coordinator": "b" * 64, "sequence": 9, "head": "d" * 64}
    with ledger.database.write() as connection:
        drifted = {**peer, "spent": "[]", "drift": "a backup was restored"}
        connection.execute(sa.insert(schema.peer).values(account_id=south.id, **drifted))
    refined(reader)
    with served(Monitor(reader), replace(LOCAL, metrics_token=TOKEN.encode())) as at:
        port = free_port()
        (tmp_path / "token").write_text(TOKEN)
        config = (DEPLOY / "prometheus.yml").read_text()
        for before, after in (
            ("30s", "1s"),
            ("https", "http"),
            ("/etc/prometheus/dpbitfit.token", str(tmp_path / "token")),
            ("coordinator.example.org:8443", str(at.http)),
            ("dpbitfit.rules.yml", str(DEPLOY / "dpbitfit.rules.yml")),
            ("    tls_config:\n", ""),
        ):
            assert before in config
            config = config.replace(before, after)
        lines = [line for line in config.splitlines() if "ca_file" not in line]
        (tmp_path / "prometheus.yml").write_text("\n".join(lines))
        running = subprocess.Popen(
            [
                prometheus,
                f"--config.file={tmp_path / 'prometheus.yml'}",
                f"--storage.tsdb.path={tmp_path / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=(tmp_path / "log").open("wb"),
        )
        try:
            raised = _until(port, "alerts", lambda content: len(_firing(content)) >= 2)
            stored = _query(port, "dpbitfit_client_epsilon_accrued")
        finally:
            running.terminate()
            running.wait()
    assert _firing(raised) == {
        ("DpbitfitBudgetClose", str(NAME)),
        ("DpbitfitLedgersDisagree", str(OTHER)),
    }
    values = {entry["metric"]["client"]: float(entry["value"][1]) for entry in stored["result"]}
    assert values == {str(NAME): spent, str(OTHER): 0.0}


def _firing(content: Any) -> set[tuple[str, str]]:
    firing = [entry["labels"] for entry in content["alerts"] if entry["state"] == "firing"]
    return {(entry["alertname"], entry.get("client", "")) for entry in firing}


def _until(port: int, path: str, enough: Callable[[Any], bool]) -> Any:
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            content = _get(port, path)
            if enough(content):
                return content
        except OSError:
            pass
        assert time.monotonic() < deadline, "Prometheus did not answer as expected in time"
        time.sleep(0.2)


def _query(port: int, expression: str) -> Any:
    return _get(port, f"query?query={urllib.parse.quote(expression)}")


def _get(port: int, path: str) -> Any:
    url = f"http://127.0.0.1:{port}/api/v1/{path}"
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url) as answer:
        return json.load(answer)["data"]
