"""A real Flower simulation and a real monitor of it, looked at with a real browser meanwhile."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dpbitfit_monitor.page.access import make_token
from dpbitfit_monitor.page.urls import account_path

from dpbitfit.ledger import Ledger
from tests.support.monitors import free_port

from ..support.browser import chromium, expect, needs_chromium, sign_in, window
from ..support.shallow import narrow_minilm
from .test_simulation import command

__all__ = ["chromium"]
pytestmark = needs_chromium
ROUNDS, TARGET, BUDGET = 6, 3.0, 3.1
START_MS, RUN_MS = 60_000, 300_000


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "messages.csv"
    subprocess.run(command("corpus", str(path), "--records", "400"), check=True)
    return path


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A monitor's address, and a token for it; its ledger and run are not there yet."""
    token, line = make_token("Dr. Jensen")
    (tmp_path / "tokens").write_text(line)
    (tmp_path / "runs").mkdir()
    http = f"127.0.0.1:{free_port()}"
    words = ["--ledger", str(tmp_path / "ledger" / "coordinator.sqlite"), "--http", http]
    words += ["--grpc", f"127.0.0.1:{free_port()}", "--runs", str(tmp_path / "runs")]
    words += ["--page-token-file", str(tmp_path / "tokens")]
    with subprocess.Popen(command("monitor", "serve", *words), stderr=subprocess.PIPE) as running:
        assert running.stderr is not None
        for line in running.stderr:
            if b"HTTP at" in line:
                break
        try:
            yield f"http://{http}", token
        finally:
            running.terminate()
            running.communicate()


@pytest.mark.timeout(900)
def test_a_simulation_is_followed_from_before_its_ledger_to_a_site_near_its_budget(
    chromium: Any, monitor: tuple[str, str], data: Path, tmp_path: Path
) -> None:
    url, token = monitor
    out, ledger = tmp_path / "runs" / "first", tmp_path / "ledger"
    with window(chromium, url) as (context, _):
        page = sign_in(context, url, token)
        expect(page.get_by_role("heading", name="The ledger cannot be read")).to_be_visible()
        words = ["simulate", "--data", str(data), "--out", str(out), "--ledger", str(ledger)]
        words += ["--labels", str(data.with_suffix(".labels.txt")), "--sites", "2"]
        words += ["--phases", "biases", "--rounds", str(ROUNDS), "--steps-per-round", "2"]
        words += ["--model", narrow_minilm(), "--max-length", "24"]
        words += ["--target-epsilon", str(TARGET), "--budget", str(BUDGET)]
        with subprocess.Popen(command(*words), stderr=subprocess.DEVNULL) as simulation:
            try:
                site = page.get_by_role("link", name="site-1", exact=True)
                expect(site).to_be_visible(timeout=RUN_MS)
                seen = follow(page)
                assert simulation.wait(120) == 0
            finally:
                simulation.terminate()
        assert seen == sorted(seen)
        assert len(set(seen) & set(range(ROUNDS))) > 1  # it was seen to go on
        report = json.loads((out / "report.json").read_text())
        titles, *rows = [row.inner_text().split("\t") for row in page.get_by_role("row").all()]
        shown = [dict(zip(titles, row, strict=True)) for row in rows]
        lines = [json.loads(line) for line in (out / "progress.jsonl").read_text().splitlines()]
        expected = [
            {
                "Round": f"{line['round']}",
                "Phase": line["phase"],
                "accuracy": f"{line['metrics']['accuracy']:.3f}",
                "Guaranteed epsilon": f"{line['guaranteed']:.3f}",
                "Replies": f"{line['replies']}",
            }
            for line in reversed(lines)
        ]
        assert [{title: row[title] for title in expected[0]} for row in shown] == expected
        check_site(page, url, report, Ledger(str(ledger / "coordinator.sqlite"), readonly=True))


def follow(page: Any) -> list[int]:
    """The rounds that the run's page shows by itself, in order."""
    page.get_by_role("link", name="Runs").click()
    page.get_by_role("rowheader").get_by_role("link").click(timeout=RUN_MS)
    page.evaluate("window.stays = 'this very page'")
    status, seen, text = page.get_by_role("status"), [], ""
    while not re.search(r", (done|stopped|failed)", text):
        expect(status).not_to_have_text(text, timeout=RUN_MS)
        text = status.inner_text()
        if match := re.search(r"Round (\d+) of", text):
            seen.append(int(match[1]))
    assert f"Round {ROUNDS} of {ROUNDS}, done" in text
    assert page.evaluate("window.stays") == "this very page"
    return seen


def check_site(page: Any, url: str, report: dict[str, Any], ledger: Ledger) -> None:
    """A site at more than 95 % of its budget, as the report of the run and the ledger have it."""
    name = ledger.accounts()[0].name
    page.goto(url)
    alerts = page.get_by_role("region", name=re.compile("Needs attention"))
    expect(alerts).to_contain_text(f"{name}: 95 %", timeout=START_MS)
    page.get_by_role("rowheader").get_by_role("link", name=name.site, exact=True).click()
    assert page.url == url + account_path(name)
    (site,) = (each for each in report["sites"] if each["name"] == name.site)
    percent = f"{100 * site['accrued'] / BUDGET:.0f}\N{NO-BREAK SPACE}%"
    expect(page.get_by_text(f"{percent} of the budget is accrued")).to_be_visible()
    events = len(ledger.events(name))
    assert events == 2 + 2 * ROUNDS
    expect(page.get_by_text(f"All {events} events form one unbroken chain")).to_be_visible()
    page.get_by_role("link", name="Report for print").click()
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")
    expect(page.get_by_text(f"epsilon {site['guaranteed']:.3f} at delta")).to_be_visible()
