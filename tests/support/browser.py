"""A real browser for the monitor's page: headless, quiet, and watched for what it asks."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="no package playwright")
expect = playwright.expect
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path")

_QUIET = (
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"),
    *("--disable-component-update", "--disable-sync"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=_QUIET)
        yield browser
        browser.close()


@contextmanager
def window(chromium: Any, url: str, **options: Any) -> Iterator[tuple[Any, list[str]]]:
    """A window, and every address that its pages ask for: by the end, none but ``url``'s own."""
    asked: list[str] = []
    context = chromium.new_context(accept_downloads=True, **options)
    context.on("request", lambda request: asked.append(request.url))
    yield context, asked
    context.close()
    assert asked
    assert {re.match(r"\w+://[^/]*", each).group() for each in asked} == {url}  # type: ignore[union-attr]


def sign_in(context: Any, url: str, token: str) -> Any:
    """A page of somebody who has signed in; the test fails should a script of it fail."""
    page = context.new_page()
    page.on("dialog", lambda dialog: pytest.fail(f"a script of a name ran: {dialog.message}"))
    page.on("pageerror", lambda error: pytest.fail(f"the page's script failed: {error}"))
    page.goto(url)
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_hidden()
    return page
