"""The page in a real browser: live, by keyboard, on a phone, on paper, and to itself."""

import csv
import json
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from dpbitfit_monitor.monitor import Monitor
from dpbitfit_monitor.page.access import Tokens, make_token
from dpbitfit_monitor.page.urls import account_path
from dpbitfit_monitor.reader import LedgerViews

from dpbitfit.accounting import composition
from dpbitfit.ledger import AccountName, Ledger
from tests.monitor.test_runs import LINE, folder
from tests.support.certificates import Authority
from tests.support.ledgers import DELTA, NAME, STEP, account, new_ledger, run_rounds, steps
from tests.support.monitors import LOCAL, served

from ..support.browser import chromium, expect, needs_chromium, sign_in, window

__all__ = ["chromium"]
pytestmark = needs_chromium

HOSTILE = AccountName("<img src=x onerror=alert(1)>", "letters", "person")
SCREENS = {"desktop": (1280, 900), "phone": (360, 740)}
ROUNDS = 4


@dataclass
class Served:
    """A monitor that serves; ``stop`` ends it."""

    url: str
    token: str
    ledger: Ledger
    out: Path
    stop: ExitStack

    def write_round(self, number: int, last: int = ROUNDS) -> None:
        """What a run does: a round of the ledger, then a line."""
        opened = self.ledger.account(NAME)
        key = f"live-{number}"
        self.ledger.reserve("live", number, {opened.id: key}, steps(1))
        self.ledger.commit({key: "reply"})
        lines = [
            {**LINE, "run": "live", "rounds": last, "round": each} for each in range(number + 1)
        ]
        done = {"report": {"final": {"stopped": ""}}} if number == last else {}
        folder(self.out, *lines, **done)


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Served]:
    ledger = new_ledger(tmp_path)
    north = account(ledger)
    ledger.allot(NAME, "one", "plan", steps(40))
    run_rounds(ledger, north, "one", 4, steps(10))
    ledger.allot(NAME, "live", "plan", steps(10))
    spent = composition.epsilon({STEP: 40}, DELTA).epsilon
    near = account(ledger, AccountName("south", "letters", "person"))
    ledger.allot(near.name, "one", "plan", steps(40))
    run_rounds(ledger, near, "one", 4, steps(10))
    ledger.set_budget(near.name, spent / 0.951, "agreed with the board")
    account(ledger, HOSTILE)
    token, line = make_token("Dr. Jensen")
    (tmp_path / "tokens").write_text(line)
    certificate, _ = Authority(tmp_path, "authority").issue("south", days=20)
    out = folder(tmp_path / "runs" / "live", {**LINE, "run": "live", "rounds": ROUNDS})
    monitor = Monitor(LedgerViews(str(tmp_path / "ledger.sqlite")), [out.parent], [certificate])
    serving = replace(LOCAL, page_tokens=Tokens(tmp_path / "tokens"))
    with ExitStack() as stop:
        address = stop.enter_context(served(monitor, serving)).http
        yield Served(f"http://{address}", token, ledger, out, stop)


@pytest.fixture
def own_window(chromium: Any, at: Served) -> Iterator[tuple[Any, list[str]]]:
    with window(chromium, at.url) as opened:
        yield opened


@pytest.fixture
def requested(own_window: tuple[Any, list[str]]) -> list[str]:
    """Every address that a page requested."""
    return own_window[1]


@pytest.fixture
def page(own_window: tuple[Any, list[str]], at: Served) -> Any:
    """A signed-in page, in which nothing has gone wrong at the end."""
    page = sign_in(own_window[0], at.url, at.token)
    expect(page.get_by_role("heading", name="Privacy budgets")).to_be_visible()
    return page


def test_a_run_is_followed_live_to_its_end(page: Any, at: Served, requested: list[str]) -> None:
    page.get_by_role("link", name="Runs").click()
    page.get_by_role("link", name="live", exact=True).click()
    expect(page.get_by_text("Round 0 of 4")).to_be_visible()
    page.evaluate("window.stays = 'this very page'")
    writer = threading.Thread(target=lambda: [at.write_round(number) for number in (1, 2)])
    writer.start()
    expect(page.get_by_text("Round 2 of 4", exact=True)).to_be_visible(timeout=20_000)
    writer.join()
    expect(page.get_by_role("status")).to_contain_text("Round 2 of 4, running: accuracy 0.500")
    at.write_round(3)
    at.write_round(4)
    expect(page.get_by_role("status")).to_contain_text("Round 4 of 4, done", timeout=20_000)
    assert page.get_by_role("row").count() == ROUNDS + 2
    assert page.evaluate("window.stays") == "this very page"
    looks = len(requested)
    page.wait_for_timeout(3000)
    assert len(requested) == looks  # nothing more can come
    page.goto(at.url + account_path(NAME))
    expect(page.get_by_text("All 19 events form one unbroken chain")).to_be_visible()


def test_without_a_script_the_page_reloads_itself(chromium: Any, at: Served) -> None:
    with window(chromium, at.url, java_script_enabled=False) as (context, _):
        page = sign_in(context, at.url, at.token)
        page.goto(f"{at.url}/runs/live")
        at.write_round(1)
        expect(page.get_by_text("Round 1 of 4")).to_be_visible(timeout=20_000)


def test_an_open_page_that_gets_no_answer_says_so(page: Any, at: Served) -> None:
    page.goto(f"{at.url}/runs/live")
    expect(page.get_by_role("alert")).to_be_hidden()
    at.stop.close()
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("The monitor does not answer", timeout=20_000)
    expect(alert).to_contain_text("may no longer hold")


def test_a_site_at_95_percent_on_screen_in_files_and_on_paper(page: Any, tmp_path: Path) -> None:
    alerts = page.get_by_role("region", name=re.compile("Needs attention"))
    expect(alerts.get_by_role("listitem").first).to_contain_text(
        "south/letters/person: 95 %", timeout=30_000
    )
    alerts.get_by_role("link", name="south/letters/person").click()
    expect(page.get_by_text("95\N{NO-BREAK SPACE}% of the budget is accrued")).to_be_visible()
    expect(page.get_by_role("img", name=re.compile("Accrued epsilon over rounds"))).to_be_visible()
    expect(page.get_by_role("rowheader", name="south", exact=True)).to_be_visible()

    def saved(name: str) -> str:
        with page.expect_download() as download:
            page.get_by_role("link", name=name, exact=True).click()
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        assert path.name == f"dpbitfit-south-letters-person.{name.lower()}"
        return path.read_text()

    assert json.loads(saved("JSON"))["used_ratio"] == pytest.approx(0.951)
    assert [row["kind"] for row in csv.DictReader(saved("CSV").splitlines())][
        -1
    ] == "budget changed"

    page.get_by_role("link", name="Report for print").click()
    expect(page.get_by_role("heading", name="Terms")).to_be_visible()
    printed = page.pdf(prefer_css_page_size=True)
    assert printed.startswith(b"%PDF")
    page.emulate_media(media="print")
    expect(page.get_by_role("navigation", name="Main")).to_be_hidden()
    expect(page.get_by_text("adding or removing one unit")).to_be_visible()


def test_by_keyboard_alone(page: Any) -> None:
    press = page.keyboard.press

    def tab_to(name: str) -> None:
        for _ in range(60):
            press("Tab")
            focused = page.evaluate("document.activeElement.innerText || document.activeElement.id")
            outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline == "solid", f"focus on {focused} cannot be seen"
            if focused.strip() == name:
                return
        pytest.fail(f"{name} cannot be reached")

    tab_to("Skip to the content")
    press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    tab_to("q")
    page.keyboard.type("sou")
    press("Enter")
    expect(page.get_by_text("1 to 1 of 1")).to_be_visible()
    tab_to("south")
    press("Enter")
    expect(page.get_by_role("heading", name="south")).to_be_visible()
    tab_to("The figures as a table")
    press("Enter")
    expect(page.get_by_role("table", name="Accrued epsilon after rounds")).to_be_visible()
    press("Home")
    page.reload()
    tab_to("Sign out")
    press("Enter")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_barrier_is_found(screen: str, scheme: str, page: Any, at: Served) -> None:
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="no package axe"
    ).Axe()
    width, height = SCREENS[screen]
    page.set_viewport_size({"width": width, "height": height})
    page.emulate_media(color_scheme=scheme)
    near = "/accounts/south/letters/person"
    paths = ("/", near, f"{near}/report", account_path(HOSTILE), "/runs", "/runs/live", "/absent")
    for path in (*paths, "/sign-in"):
        if path == "/sign-in":
            page.context.clear_cookies()
        page.goto(at.url + path)
        result = axe.run(page)
        assert result.violations_count == 0, result.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
