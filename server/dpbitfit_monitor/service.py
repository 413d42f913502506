"""The gRPC service: views as messages, errors as status codes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import wraps
from typing import Any, TypeVar

import grpc

from dpbitfit.errors import AccountingError, DpbitfitError, InputError, LedgerError
from dpbitfit_monitor import bearer, cursors, messages
from dpbitfit_monitor.generated import monitor_pb2 as pb
from dpbitfit_monitor.generated.monitor_pb2_grpc import MonitorServicer
from dpbitfit_monitor.monitor import Monitor
from dpbitfit_monitor.reader import DamagedAccount, UnknownAccount
from dpbitfit_monitor.runs import RunView
from dpbitfit_monitor.views import AccountView, UnreadableAccount

NAME = pb.DESCRIPTOR.services_by_name["Monitor"].full_name
PAGE, LARGEST_PAGE = 100, 1000
POLL_SECONDS = 1.0

# The first that applies counts.
_CODES: tuple[tuple[type[DpbitfitError], grpc.StatusCode], ...] = (
    (UnknownAccount, grpc.StatusCode.NOT_FOUND),
    (InputError, grpc.StatusCode.INVALID_ARGUMENT),
    (DamagedAccount, grpc.StatusCode.DATA_LOSS),
    (LedgerError, grpc.StatusCode.UNAVAILABLE),
    (AccountingError, grpc.StatusCode.FAILED_PRECONDITION),
    (DpbitfitError, grpc.StatusCode.INTERNAL),
)

Context = grpc.aio.ServicerContext[Any, Any]
Request = TypeVar("Request")
Response = TypeVar("Response")


def _in_thread(
    method: Callable[["Service", Request], Response],
) -> Callable[["Service", Request, Context], Awaitable[Response]]:
    """Runs a method in a thread, with a deadline only; our errors become status codes."""

    @wraps(method)
    async def respond(self: "Service", request: Request, context: Context) -> Response:
        await _require_deadline(context)
        try:
            return await asyncio.to_thread(method, self, request)
        except DpbitfitError as error:
            await _abort(context, error)
            raise

    return respond


class Service(MonitorServicer):
    """Responds from a monitor, until ``stop`` is set."""

    def __init__(self, monitor: Monitor, stop: asyncio.Event) -> None:
        self._monitor = monitor
        self._stop = stop
        self._forecasting = asyncio.Semaphore(1)

    @_in_thread
    def ListAccounts(self, request: pb.ListAccountsRequest) -> pb.ListAccountsResponse:
        """A page of accounts, by name."""
        after = cursors.decode("accounts", request.page_token)
        size = _page_size(request.page_size)
        overview = self._monitor.reader.overview()
        views: list[AccountView | UnreadableAccount] = [*overview.accounts, *overview.unreadable]
        views.sort(key=lambda view: str(view.name))
        views = [view for view in views if str(view.name) > after]
        more = cursors.encode("accounts", str(views[size - 1].name)) if len(views) > size else ""
        accounts = map(messages.account, views[:size])
        at = messages.time(overview.at)
        return pb.ListAccountsResponse(accounts=accounts, next_page_token=more, at=at)

    @_in_thread
    def GetAccount(self, request: pb.GetAccountRequest) -> pb.GetAccountResponse:
        """One account in full."""
        return messages.detail(self._monitor.reader.account(messages.name_of(request.name)))

    @_in_thread
    def ListEvents(self, request: pb.ListEventsRequest) -> pb.ListEventsResponse:
        """A page of an account's events, in order."""
        name = messages.name_of(request.name)
        scope = f"events {name}"
        after = _number(cursors.decode(scope, request.page_token))
        size = _page_size(request.page_size)
        events = self._monitor.reader.events(name, after, size)
        more = cursors.encode(scope, str(events[-1].sequence)) if len(events) == size else ""
        rows = (pb.Event(**vars(event)) for event in events)
        return pb.ListEventsResponse(events=rows, next_page_token=more)

    async def ForecastPlan(
        self, request: pb.ForecastPlanRequest, context: Context
    ) -> pb.ForecastPlanResponse:
        """One forecast at a time: each is seconds of computing."""
        async with self._forecasting:
            return await self._forecast(request, context)

    @_in_thread
    def _forecast(self, request: pb.ForecastPlanRequest) -> pb.ForecastPlanResponse:
        name = messages.name_of(request.name)
        plan = (request.sampling_rate, request.steps, request.noise_multiplier)
        return messages.forecast(self._monitor.reader.forecast(name, *plan))

    async def WatchRounds(
        self, request: pb.WatchRoundsRequest, context: Context
    ) -> AsyncIterator[pb.WatchRoundsResponse]:
        """Rounds as they come; ends with the requested run, else with the deadline."""
        await _require_deadline(context)
        sent: dict[str, tuple[str, int]] = {}  # by folder: the run, and how many of its rounds
        while True:
            runs = await asyncio.to_thread(self._monitor.runs)
            runs = tuple(run for run in runs if request.run in ("", run.run, run.folder))
            if request.run and not runs:
                await context.abort(grpc.StatusCode.NOT_FOUND, "no run that is shown has this name")
            for run in reversed(runs):
                for line in run.rounds[_rounds_sent(sent, run) :]:
                    yield messages.round_of(run, line)
                sent[run.folder] = (run.run, len(run.rounds))
            if request.run and all(run.state != "running" for run in runs):
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), POLL_SECONDS)
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the monitor stops")


class TokenInterceptor(grpc.aio.ServerInterceptor):
    """Refuses calls without the token, except to the health service."""

    def __init__(self, token: bytes) -> None:
        self._token = token

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        """The call's own handler, or a refusal."""
        authorization = str(dict(details.invocation_metadata).get("authorization", ""))
        is_open = details.method.startswith("/grpc.health.v1.Health/")
        if is_open or bearer.carries(authorization, self._token):
            return await continuation(details)
        return grpc.unary_unary_rpc_method_handler(_refuse)


async def _refuse(_: object, context: Context) -> None:
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is missing or wrong")


async def _require_deadline(context: Context) -> None:
    if context.time_remaining() is None:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "set a deadline")


async def _abort(context: Context, error: DpbitfitError) -> None:
    code = next(code for kind, code in _CODES if isinstance(error, kind))
    await context.abort(code, str(error))


def _page_size(requested: int) -> int:
    if not 0 <= requested <= LARGEST_PAGE:
        raise InputError(f"a page has 1 to {LARGEST_PAGE} entries")
    return requested or PAGE


def _number(position: str) -> int:
    if position and not (position.isascii() and position.isdigit() and len(position) < 10):
        raise InputError("a page token belongs to another list")
    return int(position or 0)


def _rounds_sent(sent: dict[str, tuple[str, int]], run: RunView) -> int:
    """How many rounds of a run were sent; none where another run has taken its folder."""
    name, rounds = sent.get(run.folder, (run.run, 0))
    return rounds if name == run.run and rounds <= len(run.rounds) else 0
