"""One process: gRPC and HTTP from one look at the ledger, until it is told to stop."""

import asyncio
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from logging import getLogger
from typing import NamedTuple

import grpc
import uvicorn
from grpc_health.v1 import health, health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_reflection.v1alpha import reflection

from dpbitfit.errors import DpbitfitError, InputError, LedgerError
from dpbitfit_monitor.generated.monitor_pb2_grpc import add_MonitorServicer_to_server
from dpbitfit_monitor.malloc import keep_small
from dpbitfit_monitor.monitor import Monitor
from dpbitfit_monitor.page.access import Tokens
from dpbitfit_monitor.service import NAME, Service, TokenInterceptor
from dpbitfit_monitor.tls import Tls
from dpbitfit_monitor.web import Protocol, make_app
from dpbitfit_monitor.webhook import Webhook, is_loopback

LOOK_SECONDS = 1.0  # so that no question has to wait for a look
GRACE_SECONDS = 5.0
_STATES = {True: HealthCheckResponse.SERVING, False: HealthCheckResponse.NOT_SERVING}

_log = getLogger(__name__)


class Address(NamedTuple):
    """Where to listen."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Address":
        """HOST:PORT; InputError where it is not."""
        host, colon, port = text.rpartition(":")
        if not (host and colon and port.isascii() and port.isdigit() and int(port) < 65536):
            raise InputError(f"an address is HOST:PORT, not {text!r}")
        return cls(host.strip("[]"), int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Serving:
    """What to serve, and how. Without ``tls`` only this machine may be served."""

    grpc: Address
    http: Address
    tls: Tls | None = None
    token: bytes | None = None
    metrics_token: bytes | None = None
    page_tokens: Tokens | None = None
    reflection: bool = False
    webhook: Webhook | None = None

    def check(self) -> None:
        """InputError where somebody else could listen in, or the files are wrong."""
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
        # Should one of the tasks fail, the others end, too.
        async with _grpc(monitor, serving, stop) as state, asyncio.TaskGroup() as tasks:
            beside = [tasks.create_task(_watch(monitor, state, serving.webhook))]
            if serving.tls and config.ssl:
                beside.append(tasks.create_task(serving.tls.keep_renewed(config.ssl)))
            _log.info("HTTP at %s", serving.http._replace(port=listening.getsockname()[1]))
            await _answer(config, listening, stop)
            for task in beside:
                task.cancel()


@asynccontextmanager
async def _grpc(
    monitor: Monitor, serving: Serving, stop: asyncio.Event
) -> AsyncIterator[health.aio.HealthServicer]:
    guards = [TokenInterceptor(serving.token)] if serving.token and not serving.tls else []
    options = [("grpc.so_reuseport", 0)]  # else a second monitor would take half of the calls
    server = grpc.aio.server(interceptors=guards, options=options)
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
        raise InputError(f"{address}: nobody can listen here; is something else?") from error
    await server.start()
    _log.info("gRPC at %s", serving.grpc._replace(port=port))
    try:
        yield state
    finally:
        await state.enter_graceful_shutdown()
        await server.stop(GRACE_SECONDS)


class _HttpServer(uvicorn.Server):
    """Leaves signals to others: uvicorn's own way would end the process on the spot."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing."""
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
        raise InputError(f"{address}: nobody can listen here ({error.strerror})") from error


async def _watch(
    monitor: Monitor, state: health.aio.HealthServicer, webhook: Webhook | None
) -> None:
    """Keep health service, webhook and log told of the ledger and of the alerts."""
    said = ""
    while True:
        try:
            await asyncio.to_thread(monitor.reader.overview, fresh=True)
            await asyncio.to_thread(monitor.reader.verify_next)
            problem = ""
        except LedgerError as error:
            problem = str(error)
        for service in ("", NAME):
            await state.set(service, _STATES[not problem])
        if problem != said:
            _log.warning("%s", problem or "the ledger can be read again")
            said = problem
        if webhook is not None:
            try:
                alerts = await asyncio.to_thread(monitor.alerts)
                await asyncio.to_thread(webhook.tell, alerts)
            except DpbitfitError as error:
                _log.warning("no alerts can be made: %s", error)
        await asyncio.sleep(LOOK_SECONDS)
