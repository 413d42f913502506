"""A monitor that serves in a thread of the test."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import grpc
from dpbitfit_monitor.addresses import Address
from dpbitfit_monitor.monitor import Monitor
from dpbitfit_monitor.serve import Serving, serve

LOOPBACK = Address("127.0.0.1", 0)
LOCAL = Serving(LOOPBACK, LOOPBACK)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@contextmanager
def served(monitor: Monitor, serving: Serving = LOCAL) -> Iterator[Serving]:
    """Serves until the block ends, on the ports of the result."""
    serving = replace(
        serving,
        grpc=serving.grpc._replace(port=free_port()),
        http=serving.http._replace(port=free_port()),
    )
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            loop.run_until_complete(serve(monitor, serving, stop))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        for address in (serving.grpc, serving.http):
            while thread.is_alive():
                with socket.socket() as attempt:
                    if attempt.connect_ex(address) == 0:
                        break
        yield serving
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
    if failed:
        raise failed[0]


def code_of(error: grpc.RpcError) -> grpc.StatusCode:
    assert isinstance(error, grpc.Call)
    code: grpc.StatusCode = error.code()
    return code
