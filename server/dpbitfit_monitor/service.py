"""The gRPC service: views as messages, errors as status codes."""

import asyncio
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import wraps
from typing import Any, TypeVar

import grpc

from dpbitfit.errors import AccountingError, DpbitfitError, InputError, LedgerError
from dpbitfit_monitor import cursors, messages
from dpbitfit_monitor.generated import monitor_pb2 as pb
from dpbitfit_monitor.generated.monitor_pb2_grpc import MonitorServicer
from dpbitfit_monitor.monitor import Monitor
from dpbitfit_monitor.reader import DamagedAccount, UnknownAccount
from dpbitfit_monitor.runs import RunView
from dpbitfit_monitor.views import AccountView, UnreadableAccount

NAME = pb.DESCRIPTOR.services_by_name["Monitor"].full_name
PAGE, LARGEST_PAGE = 100, 1000
POLL_SECONDS = 1.0

# The first that applies.
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


def _answer(
    method: Callable[["Service", Request], Response],
) -> Callable[["Service", Request, Context], Awaitable[Response]]:
    """Answers in a thread, with a deadline only; an error of ours is a status, in plain words."""

    @wraps(method)
    async def answer(self: "Service", request: Request, context: Context) -> Response:
        await _require_deadline(context)
        try:
            return await asyncio.to_thread(method, self, request)
        except DpbitfitError as error:
            await _abort(context, error)
            raise

    return answer


class Service(MonitorServicer):
    """Answers from a monitor, until ``stop`` is set."""

    def __init__(self, monitor: Monitor, stop: asyncio.Event) -> None:
        self._monitor = monitor
        self._stop = stop
        self._forecasting = asyncio.Semaphore(1)

    @_answer
    def ListAccounts(self, request: pb.ListAccountsRequest) -> pb.ListAccountsResponse:
        """A page of accounts, by name."""
        behind = cursors.decode("accounts", request.page_token)
        most = _page_size(request.page_size)
        overview = self._monitor.reader.overview()
        every: list[AccountView | UnreadableAccount] = [*overview.accounts, *overview.unreadable]
        every.sort(key=lambda one: str(one.name))
        left = [one for one in every if str(one.name) > behind]
        more = cursors.encode("accounts", str(left[most - 1].name)) if len(left) > most else ""
        accounts = map(messages.account, left[:most])
        at = messages.time(overview.at)
        return pb.ListAccountsResponse(accounts=accounts, next_page_token=more, at=at)

    @_answer
    def GetAccount(self, request: pb.GetAccountRequest) -> pb.GetAccountResponse:
        """All about one account."""
        return messages.detail(self._monitor.reader.account(messages.name_of(request.name)))

    @_answer
    def ListEvents(self, request: pb.ListEventsRequest) -> pb.ListEventsResponse:
        """A page of an account's events, in order."""
        name = messages.name_of(request.name)
        scope = f"events {name}"
        after = _number(cursors.decode(scope, request.page_token))
        most = _page_size(request.page_size)
        found = self._monitor.reader.events(name, after, most)
        more = cursors.encode(scope, str(found[-1].sequence)) if len(found) == most else ""
        events = (pb.Event(**vars(one)) for one in found)
        return pb.ListEventsResponse(events=events, next_page_token=more)

    async def ForecastPlan(
        self, request: pb.ForecastPlanRequest, context: Context
    ) -> pb.ForecastPlanResponse:
        """One forecast at a time: each is seconds of computing."""
        async with self._forecasting:
            return await self._forecast(request, context)

    @_answer
    def _forecast(self, request: pb.ForecastPlanRequest) -> pb.ForecastPlanResponse:
        name = messages.name_of(request.name)
        asked = (request.sampling_rate, request.steps, request.noise_multiplier)
        return messages.forecast(self._monitor.reader.forecast(name, *asked))

    async def WatchRounds(
        self, request: pb.WatchRoundsRequest, context: Context
    ) -> AsyncIterator[pb.WatchRoundsResponse]:
        """Rounds as they come; ends with the run that was asked for, else with the deadline."""
        await _require_deadline(context)
        told: dict[str, tuple[str, int]] = {}
        while True:
            runs = await asyncio.to_thread(self._monitor.runs)
            chosen = [one for one in runs if request.run in ("", one.run, one.folder)]
            if request.run and not chosen:
                await context.abort(grpc.StatusCode.NOT_FOUND, "no run that is shown has this name")
            for view in reversed(chosen):
                for one in view.rounds[_told(told, view) :]:
                    yield messages.round_of(view, one)
                told[view.folder] = (view.run, len(view.rounds))
            if request.run and all(one.state != "running" for one in chosen):
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), POLL_SECONDS)
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the monitor stops")


class TokenInterceptor(grpc.aio.ServerInterceptor):
    """Lets nobody in without the token; but whoever asks about health."""

    def __init__(self, token: bytes) -> None:
        self._wanted = b"Bearer " + token

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        """The call's own handler, or a refusal."""
        given = dict(details.invocation_metadata).get("authorization", "")
        is_open = details.method.startswith("/grpc.health.v1.Health/")
        if is_open or hmac.compare_digest(str(given).encode(), self._wanted):
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


def _page_size(asked: int) -> int:
    if not 0 <= asked <= LARGEST_PAGE:
        raise InputError(f"a page has 1 to {LARGEST_PAGE} entries")
    return asked or PAGE


def _number(position: str) -> int:
    if position and not (position.isascii() and position.isdigit() and len(position) < 10):
        raise InputError("a page token is not one of this list")
    return int(position or 0)


def _told(told: dict[str, tuple[str, int]], view: RunView) -> int:
    """How many rounds of a run were told; none where another run took its folder."""
    run, rounds = told.get(view.folder, (view.run, 0))
    return rounds if run == view.run and rounds <= len(view.rounds) else 0
