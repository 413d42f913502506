"""One process that serves gRPC and HTTP from the same view of the ledger, until it is stopped."""

import asyncio
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from logging import getLogger

import grpc
import uvicorn
from grpc_health.v1 import health, health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_reflection.v1alpha import reflection

from dpbitfit.errors import DpbitfitError, InputError, LedgerError
from dpbitfit_monitor.addresses import Address, is_loopback
from dpbitfit_monitor.generated.monitor_pb2_grpc import add_MonitorServicer_to_server
from dpbitfit_monitor.malloc import keep_small
from dpbitfit_monitor.monitor import Monitor
from dpbitfit_monitor.page.access import Tokens
from dpbitfit_monitor.service import NAME, Service, TokenInterceptor
from dpbitfit_monitor.tls import Tls
from dpbitfit_monitor.web import Protocol, make_app
from dpbitfit_monitor.webhook import Webhook

READ_SECONDS = 1.0  # between two reads of the ledger, so that no request has to wait for one
GRACE_SECONDS = 5.0
_STATES = {True: HealthCheckResponse.SERVING, False: HealthCheckResponse.NOT_SERVING}

_log = getLogger(__name__)


@dataclass(frozen=True)
class Serving:
    """Where and how to serve. Without ``tls`` only this machine may be served."""

    grpc: Address
    http: Address
    tls: Tls | None = None
    token: bytes | None = None
    metrics_token: bytes | None = None
    page_tokens: Tokens | None = None
    reflection: bool = False
    webhook: Webhook | None = None

    def check(self) -> None:
        """InputError for an unencrypted address that others can reach, or unusable files."""
        for address in (self.grpc, self.http):
            if self.tls is None and not is_loopback(address.host):
                raise InputError(
                    f"{address} is not this machine's own: give --certificate, --key, --client-ca"
                )
        if self.tls is not None:
            self.tls.check()


async def serve_until_signalled(monitor: Monitor, serving: Serving) -> None:
    """Serve until SIGTERM or SIGINT."""
    keep_small()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await serve(monitor, serving, stop)


async def serve(monitor: Monitor, serving: Serving, stop: asyncio.Event) -> None:
    """Serve until ``stop`` is set; calls under way have five seconds to end."""
    serving.check()
    config = _http(monitor, serving)
    with _listen(serving.http) as listening, monitor.refining():
        # If one of the tasks fails, the others end, too.
        async with _grpc(monitor, serving, stop) as state, asyncio.TaskGroup() as tasks:
            background = [tasks.create_task(_watch(monitor, state, serving.webhook))]
            if serving.tls and config.ssl:
                background.append(tasks.create_task(serving.tls.keep_renewed(config.ssl)))
            _log.info("HTTP at %s", serving.http._replace(port=listening.getsockname()[1]))
            await _answer(config, listening, stop)
            for task in background:
                task.cancel()


@asynccontextmanager
async def _grpc(
    monitor: Monitor, serving: Serving, stop: asyncio.Event
) -> AsyncIterator[health.aio.HealthServicer]:
    interceptors = [TokenInterceptor(serving.token)] if serving.token and not serving.tls else []
    options = [("grpc.so_reuseport", 0)]  # else a second monitor would be given half of the calls
    server = grpc.aio.server(interceptors=interceptors, options=options)
    add_MonitorServicer_to_server(Service(monitor, stop), server)  # type: ignore[no-untyped-call]
    state = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(state, server)
    if serving.reflection:
        names = (NAME, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
    address = str(serving.grpc)
    try:
        if serving.tls:
            port = server.add_secure_port(address, serving.tls.for_grpc())
        else:
            port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise InputError(f"{address}: cannot listen here; is the port in use?") from error
    await server.start()
    _log.info("gRPC at %s", serving.grpc._replace(port=port))
    try:
        yield state
    finally:
        await state.enter_graceful_shutdown()
        await server.stop(GRACE_SECONDS)


class _HttpServer(uvicorn.Server):
    """Leaves signals to ``serve_until_signalled``: uvicorn would end the process at once."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture no signal."""
        yield


def _http(monitor: Monitor, serving: Serving) -> uvicorn.Config:
    tls = serving.tls
    is_local = is_loopback(serving.http.host)
    config = uvicorn.Config(
        make_app(monitor, serving.metrics_token, is_local, serving.page_tokens),
        http=Protocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(GRACE_SECONDS),
        ssl_certfile=tls.certificate if tls else None,
        ssl_keyfile=tls.key if tls else None,
        ssl_ca_certs=str(tls.client_ca) if tls else None,
        ssl_cert_reqs=ssl.CERT_OPTIONAL,
    )
    config.load()
    return config


async def _answer(config: uvicorn.Config, listening: socket.socket, stop: asyncio.Event) -> None:
    server = _HttpServer(config)
    running = asyncio.create_task(server.serve(sockets=[listening]))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([running, stopping], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stop.set()
        server.should_exit = True
        stopping.cancel()
        await running


def _listen(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server((address.host, address.port), family=family)
    except OSError as error:
        raise InputError(f"{address}: cannot listen here ({error.strerror})") from error


async def _watch(
    monitor: Monitor, state: health.aio.HealthServicer, webhook: Webhook | None
) -> None:
    """Keep health service, webhook and log up to date with the ledger and the alerts."""
    logged = ""
    while True:
        try:
            await asyncio.to_thread(monitor.reader.overview, fresh=True)
            await asyncio.to_thread(monitor.reader.verify_next)
            problem = ""
        except LedgerError as error:
            problem = str(error)
        for service in ("", NAME):
            await state.set(service, _STATES[not problem])
        if problem != logged:
            _log.warning("%s", problem or "the ledger can be read again")
            logged = problem
        if webhook is not None:
            try:
                alerts = await asyncio.to_thread(monitor.alerts)
                await asyncio.to_thread(webhook.post, alerts)
            except DpbitfitError as error:
                _log.warning("the alerts cannot be determined: %s", error)
        await asyncio.sleep(READ_SECONDS)
