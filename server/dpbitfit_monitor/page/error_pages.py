"""Error pages: what is wrong, in plain words, and what to do; no trace of code."""

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from dpbitfit.errors import DpbitfitError, LedgerError
from dpbitfit_monitor.page.render import render
from dpbitfit_monitor.reader import DamagedAccount, UnknownAccount

Handler = Callable[[Request, Exception], Response]

_REFRESH_SECONDS = 5
_UNREADABLE = (
    "Until the ledger can be read again, no account's figures are known, and no older figure "
    "takes their place. This page refreshes by itself."
)
_DAMAGED = (
    "No figure of it can be given. Run: dpbitfit ledger verify; then restore a backup, and run "
    "dpbitfit ledger settle --rebase on both sides."
)
_UNKNOWN = "Look for it on the page of all budgets: a name is site, data set and unit."


def _handler(status: int, title: str, advice: str, refresh: int = 0) -> Handler:
    """Shows an error's own text, with what to do."""

    def handle(request: Request, error: Exception) -> Response:
        return _page(request, status, title, str(error), advice, refresh)

    return handle


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    phrase = HTTPStatus(error.status_code).phrase
    text = error.detail if error.detail != phrase else "There is nothing at this address."
    return _page(request, error.status_code, phrase, text, "Start from the page of all budgets.")


def _failure(request: Request, _: Exception) -> Response:
    text = "An unexpected error occurred."
    return _page(request, 500, "This page failed", text, "Look in the log of dpbitfit monitor.")


def _page(
    request: Request, status: int, title: str, text: str, advice: str, refresh: int = 0
) -> Response:
    context = {"title": title, "text": text, "advice": advice, "refresh": refresh}
    return render(request, "problem.html", context, status)


HANDLERS: Mapping[Any, Handler] = {
    UnknownAccount: _handler(404, "No such account", _UNKNOWN),
    DamagedAccount: _handler(503, "This account is unreadable or corrupt", _DAMAGED),
    LedgerError: _handler(503, "The ledger cannot be read", _UNREADABLE, _REFRESH_SECONDS),
    DpbitfitError: _handler(503, "This cannot be shown", "Correct that, then try again."),
    HTTPException: _http,
    Exception: _failure,
}
