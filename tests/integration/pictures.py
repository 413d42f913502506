"""The README's pictures: the monitor's page, of a ledger that is made for them.

`python -m tests.integration.pictures` takes them anew, in a minute.
"""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from dpbitfit_monitor.monitor import Monitor
from dpbitfit_monitor.page.access import Tokens, make_token
from dpbitfit_monitor.page.urls import account_path
from dpbitfit_monitor.reader import LedgerViews

from dpbitfit.accounting.mechanism import Mechanism
from dpbitfit.ledger import AccountName
from tests.support.ledgers import account, new_ledger, run_rounds
from tests.support.monitors import LOCAL, served

from ..support.browser import CHROMIUM, playwright, sign_in, window

FOLDER = Path("deploy/pictures")
STEP, STEPS, PLANNED = Mechanism(0.9, 0.02), 5, 30  # steps a round, and rounds of the plan
BUDGETS = {"harbour": 2.25, "hill": 4.0, "lake": 2.25, "north": 8.0}
DONE = {"harbour": 30, "hill": 26, "lake": 18, "north": 26}  # rounds
SHOWN = AccountName("harbour", "discharge letters", "patient")
OVERVIEW, SITE = (1100, 1040), (1100, 1090)


def main() -> None:
    """Take the pictures."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        ledger = new_ledger(folder)
        for site, budget in BUDGETS.items():
            opened = account(ledger, SHOWN._replace(site=site), budget)
            ledger.allot(opened.name, "triage", "plan", ((STEP, PLANNED * STEPS),))
            run_rounds(ledger, opened, "triage", DONE[site], ((STEP, STEPS),))
        token, line = make_token("Dr. Jensen")
        (folder / "tokens").write_text(line)
        monitor = Monitor(LedgerViews(str(folder / "ledger.sqlite")), [], [])
        serving = replace(LOCAL, page_tokens=Tokens(folder / "tokens"))
        url = f"http://{stack.enter_context(served(monitor, serving)).http}"
        running = stack.enter_context(playwright.sync_playwright())
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context, _ = stack.enter_context(window(browser, url))
        page = sign_in(context, url, token)
        FOLDER.mkdir(exist_ok=True)
        for name, path, size in (("overview", "/", OVERVIEW), ("site", account_path(SHOWN), SITE)):
            page.set_viewport_size(dict(zip(("width", "height"), size, strict=True)))
            page.goto(url + path)
            while monitor.reader.bounds.waiting:
                page.wait_for_timeout(500)
            page.goto(url + path)
            page.screenshot(path=FOLDER / f"{name}.png")


if __name__ == "__main__":
    main()
