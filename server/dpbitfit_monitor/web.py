"""The monitor over HTTP: its page, its metrics, and its health.

Nothing is shown without a token or a client certificate, except metrics to this
machine where they need no token. ``/healthz`` says no more than yes or no.
"""

import asyncio
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from dpbitfit.errors import LedgerError
from dpbitfit_monitor import bearer
from dpbitfit_monitor.addresses import is_loopback
from dpbitfit_monitor.metrics import CONTENT_TYPE, exposition
from dpbitfit_monitor.monitor import Monitor
from dpbitfit_monitor.page import auth_middleware, static
from dpbitfit_monitor.page.access import Sessions, Tokens
from dpbitfit_monitor.page.error_pages import HANDLERS
from dpbitfit_monitor.page.pages import Pages

REQUEST_SECONDS = 10.0  # from a connection, or a reply, until the next request is there whole


class Protocol(H11Protocol):
    """HTTP that puts a verified client certificate in the request's state, and waits for none long.

    Else who begins many requests and ends none takes every file descriptor, with no certificate.
    """

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Take the certificate that the client presented on its connection."""
        super().connection_made(transport)
        self._expect_request()
        certificate = transport.get_extra_info("peercert") or None
        self.app_state = {**self.app_state, "client_certificate": certificate}

    def data_received(self, data: bytes) -> None:
        """Take a part of a request; whole, it is answered however long that takes."""
        super().data_received(data)
        cycle = self.cycle
        if cycle is not None and not cycle.more_body and not cycle.response_complete:
            self._expect_nothing()

    def on_response_complete(self) -> None:
        """Keep the connection for another request."""
        super().on_response_complete()
        self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._expect_nothing()
        super().connection_lost(exc)

    def _expect_request(self) -> None:
        self._expect_nothing()
        self._late = self.loop.call_later(REQUEST_SECONDS, self.transport.close)

    def _expect_nothing(self) -> None:
        if self._late is not None:
            self._late.cancel()


def make_app(
    monitor: Monitor,
    metrics_token: bytes | None,
    is_local: bool,
    page_tokens: Tokens | None = None,
) -> ASGIApp:
    """The application; ``is_local`` where only this machine can reach it.

    Without ``page_tokens`` only the holder of a client certificate sees the page.
    """

    def may_scrape(request: Request) -> bool:
        if getattr(request.state, "client_certificate", None):
            return True
        if metrics_token is None:
            # Another name is what a page from elsewhere, or a proxy, calls this machine.
            return is_local and is_loopback(request.url.hostname or "")
        return bearer.carries(request.headers.get("authorization", ""), metrics_token)

    async def metrics(request: Request) -> Response:
        if not may_scrape(request):
            headers = {"WWW-Authenticate": "Bearer"}
            return PlainTextResponse("a token is needed\n", status_code=401, headers=headers)
        text = await asyncio.to_thread(exposition, monitor)
        return Response(text, headers={"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"})

    async def health(_: Request) -> Response:
        try:
            await asyncio.to_thread(monitor.reader.overview)
        except LedgerError:
            return PlainTextResponse("the ledger cannot be read\n", status_code=503)
        return PlainTextResponse("well\n")

    sessions = Sessions(page_tokens) if page_tokens else None
    routes = [
        Route("/metrics", metrics),
        Route("/healthz", health),
        *auth_middleware.routes(page_tokens, sessions),
        *static.ROUTES,
        *Pages(monitor).routes(),
    ]
    return auth_middleware.AuthMiddleware(
        Starlette(routes=routes, exception_handlers=HANDLERS), sessions
    )
