"""Authentication before every page: nothing is shown to a viewer who has not signed in.

It wraps the whole application, so that a page which is added later is protected,
and every response, an error's too, carries the same strict headers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dpbitfit_monitor.page.access import (
    FAILURE_SECONDS,
    SESSION_SECONDS,
    Attempts,
    Sessions,
    Tokens,
)
from dpbitfit_monitor.page.render import render

SIGN_IN, SIGN_OUT = "/sign-in", "/sign-out"
# Metrics need a token of their own; the static files hold no account's data.
_OPEN = ("/healthz", "/metrics", SIGN_IN)
_OPEN_FOLDER = "/static/"
_LARGEST_FORM = 4096  # bytes
_SECURITY = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True)
class Viewer:
    """Who is signed in; ``session`` is "" for the holder of a certificate, who cannot sign out."""

    name: str
    session: str = ""


class AuthMiddleware:
    """Lets holders of a token or of a client certificate through to the application."""

    def __init__(self, app: ASGIApp, sessions: Sessions | None) -> None:
        self._app = app
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or ask to sign in."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_strictly(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_SECURITY)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        request = Request(scope)
        scope["viewer"] = self._viewer(request)
        path = scope["path"]
        may_pass = scope["viewer"] or path in _OPEN or path.startswith(_OPEN_FOLDER)
        response = self._app if may_pass else _refusal(request)
        await response(scope, receive, send_strictly)

    def _viewer(self, request: Request) -> Viewer | None:
        certificate = getattr(request.state, "client_certificate", None)
        if certificate:
            return Viewer(_common_name(certificate))
        session = request.cookies.get(_cookie(request), "")
        name = self._sessions.holder(session) if self._sessions else None
        return Viewer(name, session) if name else None


def routes(tokens: Tokens | None, sessions: Sessions | None) -> list[Route]:
    """Signing in and out."""
    attempts = Attempts()

    def form(request: Request, problem: str = "", status: int = 200) -> Response:
        target = _target(request)
        context = {"problem": problem, "target": target, "has_tokens": tokens is not None}
        return render(request, "sign_in.html", context, status)

    async def sign_in(request: Request) -> Response:
        if request.scope["viewer"]:
            return RedirectResponse(_target(request), 303)
        if request.method != "POST":
            return form(request)
        if not _is_own(request):
            return form(request, "This form was sent from elsewhere. Please try again here.", 403)
        if tokens is None or sessions is None:
            return form(request, status=403)
        address = request.client.host if request.client else ""
        if not attempts.is_allowed(address):
            minutes = round(FAILURE_SECONDS / 60)
            text = f"Too many wrong tokens from your address. Wait {minutes} minutes."
            response = form(request, text, 429)
            response.headers["Retry-After"] = str(int(FAILURE_SECONDS))
            return response
        digest = tokens.known(await _posted_token(request))
        if digest is None:
            attempts.failed(address)
            return form(request, "This token is not known here. Was all of it copied?", 403)
        response = RedirectResponse(_target(request), 303)
        _set_cookie(request, response, sessions.begin(digest), SESSION_SECONDS)
        return response

    async def sign_out(request: Request) -> Response:
        if not _is_own(request):
            return PlainTextResponse("this form was sent from elsewhere\n", 403)
        if sessions is not None:
            sessions.end(request.scope["viewer"].session)
        response = RedirectResponse(SIGN_IN, 303)
        _set_cookie(request, response, "", 0)
        return response

    return [
        Route(SIGN_IN, sign_in, methods=["GET", "POST"]),
        Route(SIGN_OUT, sign_out, methods=["POST"]),
    ]


def _refusal(request: Request) -> Response:
    if request.method in ("GET", "HEAD") and "text/html" in request.headers.get("accept", ""):
        path, query = request.scope["raw_path"], request.scope["query_string"]
        wanted = (path + b"?" + query if query else path).decode("ascii", "replace")
        return RedirectResponse(f"{SIGN_IN}?next={quote(wanted, safe='')}", 303)
    return PlainTextResponse("sign in first\n", 401)


def _target(request: Request) -> str:
    """Where to go after signing in: a path of this page, never another machine's address."""
    wanted = request.query_params.get("next", "/")
    is_path = wanted.startswith("/") and not wanted.startswith(("//", "/\\"))
    return wanted if is_path and wanted.isprintable() else "/"


def _is_own(request: Request) -> bool:
    """Whether this page sent the form: the browser sets these headers, no page can."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin = urlsplit(request.headers.get("origin", ""))
    return origin.netloc != "" and origin.netloc == request.headers.get("host")


async def _posted_token(request: Request) -> str:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LARGEST_FORM:
            return ""
    return parse_qs(body.decode("ascii", "replace")).get("token", [""])[0].strip()


def _cookie(request: Request) -> str:
    # A cookie of this name is accepted by browsers only over TLS and from this very host.
    return "__Host-dpbitfit" if request.url.scheme == "https" else "dpbitfit"


def _set_cookie(request: Request, response: Response, value: str, seconds: int) -> None:
    response.set_cookie(
        _cookie(request),
        value,
        max_age=seconds,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )


def _common_name(certificate: Mapping[str, Any]) -> str:
    pairs = [pair for part in certificate.get("subject", ()) for pair in part]
    return next((text for key, text in pairs if key == "commonName"), "the holder of a certificate")
