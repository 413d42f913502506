"""What is shown where nothing can be: in plain words, with what to do, and no trace of code."""

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from dpbitfit.errors import DpbitfitError, LedgerError
from dpbitfit_monitor.page.render import render
from dpbitfit_monitor.reader import DamagedAccount, UnknownAccount

_AGAIN_SECONDS = 5

_AWAY = (
    "Until the ledger can be read again, nothing is known of any account, and no older figure "
    "takes its place. This page looks again by itself."
)
_DAMAGED = (
    "No figure of it can be given. Run: dpbitfit ledger verify; then restore a backup, and settle "
    "it on both sides."
)
_UNKNOWN = "Look for it on the page of all budgets: a name is site, data set and unit."


def _ledger(request: Request, error: Exception) -> Response:
    return _page(request, 503, "The ledger cannot be read", str(error), _AWAY, _AGAIN_SECONDS)


def _damaged(request: Request, error: Exception) -> Response:
    return _page(request, 503, "This account cannot be believed", str(error), _DAMAGED)


def _unknown(request: Request, error: Exception) -> Response:
    return _page(request, 404, "No such account", str(error), _UNKNOWN)


def _other(request: Request, error: Exception) -> Response:
    return _page(request, 503, "This cannot be shown", str(error), "Mend that, then try again.")


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    phrase = HTTPStatus(error.status_code).phrase
    text = error.detail if error.detail != phrase else "There is nothing at this address."
    return _page(request, error.status_code, phrase, text, "Start from the page of all budgets.")


def _failure(request: Request, _: Exception) -> Response:
    text = "Something failed here that should not have."
    return _page(request, 500, "This page failed", text, "Look in the log of dpbitfit monitor.")


HANDLERS: Mapping[Any, Callable[[Request, Exception], Response]] = {
    UnknownAccount: _unknown,
    DamagedAccount: _damaged,
    LedgerError: _ledger,
    DpbitfitError: _other,
    HTTPException: _http,
    Exception: _failure,
}


def _page(
    request: Request, status: int, title: str, text: str, advice: str, refresh: int = 0
) -> Response:
    told = {"title": title, "text": text, "advice": advice, "refresh": refresh}
    return render(request, "problem.html", told, status)
