"""Processes for ``python -c CODE WORDS`` that start warm: forks of one that has imported much.

A fresh process spends ten seconds on importing torch, transformers and flwr. These
are processes of their own all the same, with their own pid, environment, folder and
exit status; a test can signal, stop and kill them. What a command imports when it
starts cold is for tests that start it with ``subprocess``.

The template runs one thread and opens no channel, so that a fork of it is sound.
"""

import atexit
import functools
import gc
import importlib
import json
import os
import random
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self

from dpbitfit import simulate

from ..conftest import ROOT
from . import forks

_PRELOADED = (
    *("transformers.models.bert.modeling_bert", "dpbitfit.cli", "dpbitfit_client.cli"),
    *("dpbitfit_client.guard.service", "dpbitfit_monitor.cli", "dpbitfit_monitor.serve"),
    *("flwr.superlink.cli", "dpbitfit_server.app", "dpbitfit_server.central_evaluation"),
    *("flwr.supernode.cli", "dpbitfit_client.app"),
    *("dp_accounting.rdp", "dp_accounting.pld", "prv_accountant"),
)
MAIN = "from dpbitfit.cli import main; main()"  # the command line
SERVER_APP = "from flwr.superlink.cli import flwr_serverapp; flwr_serverapp()"
CLIENT_APP = "from flwr.supernode.cli import flwr_clientapp; flwr_clientapp()"
_TEMPLATE = "from tests.support.warm import serve; exec(serve())"
_ENVIRONMENT = {
    **{"OMP_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"},  # one thread
    **{"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"},  # read on import
}
_PROGRAM = """\
#!{python} -IS
import sys
sys.path.append({support!r})
import forks
forks.ask({address!r}, {code!r}, sys.argv[1:])
"""


class Process:
    """A running fork: what this suite uses of ``subprocess.Popen``."""

    def __init__(
        self,
        code: str,
        *words: str,
        stdout: IO[Any] | None = None,
        stderr: IO[Any] | None = None,
        cwd: Path | str | None = None,
        env: Mapping[str, str] | None = None,
        umask: int = -1,
    ) -> None:
        output = 1 if stdout is None else stdout.fileno()
        errors = 2 if stderr is None else stderr.fileno()
        given: Any = {"outputs": (output, errors), "cwd": cwd, "env": env, "umask": umask}
        self._status, self.pid = forks.ask(_template(), code, words, **given)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit status, negative for a signal's; None while it runs."""
        with suppress(TimeoutError):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            with selectors.DefaultSelector() as selector:
                selector.register(self._status, selectors.EVENT_READ)
                if not selector.select(timeout):
                    raise TimeoutError(f"process {self.pid} runs after {timeout} seconds")
            self.returncode = os.waitstatus_to_exitcode(forks.receive(self._status, "ended"))
            self._status.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.wait()


def run(
    code: str, *words: str, timeout: float | None = None, **options: Any
) -> "subprocess.CompletedProcess[str]":
    """Run a fork to its end: its exit status, and what it printed."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        with Process(code, *words, stdout=out, stderr=err, **options) as process:
            try:
                process.wait(timeout)
            finally:
                process.kill()
        texts = [file.seek(0) or file.read() for file in (out, err)]
    return subprocess.CompletedProcess([code, *words], process.wait(), *texts)


def program(path: Path, code: str) -> None:
    """Write a program that is found by its name, and starts CODE warm with its own words.

    It ends once that began, which is nothing to a caller that does not wait for it.
    """
    names = {"python": sys.executable, "support": str(Path(__file__).parent)}
    path.write_text(_PROGRAM.format(address=_template(), code=code, **names))
    path.chmod(0o700)


@functools.cache
def _template() -> str:
    """Where the template listens: a socket in a folder that is this user's alone."""
    folder = tempfile.TemporaryDirectory(prefix="warm-", dir=simulate._short_folder())
    address = f"{folder.name}/socket"
    path = os.pathsep.join(map(str, (ROOT, ROOT / "client", ROOT / "server")))
    with forks.channel() as listener:
        listener.bind(address)
        listener.listen()
        template = subprocess.Popen(
            [sys.executable, "-c", _TEMPLATE, str(listener.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path, **_ENVIRONMENT},
            cwd=ROOT,
            pass_fds=[listener.fileno()],
        )

    def end() -> None:
        template.communicate()  # closes its input, by which it knows that the tests are gone
        folder.cleanup()

    atexit.register(end)
    return address


def serve() -> str:
    """The template: forks for each request; in the fork, returns the code to run there.

    Once the tests are gone, or it is told to end, it kills what it forked.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in _PRELOADED:
        importlib.import_module(name)
    assert len(os.listdir("/proc/self/task")) == 1
    gc.collect()
    gc.freeze()
    listener = socket.socket(fileno=int(sys.argv[1]))
    running: dict[int, tuple[int, socket.socket]] = {}  # by the descriptor of its pid
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    selector.register(0, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fd == 0:
                for pid, _ in running.values():
                    os.kill(pid, signal.SIGKILL)
                sys.exit()
            elif key.fileobj is listener:
                status, _ = listener.accept()
                message, outputs, _, _ = socket.recv_fds(status, forks.BYTES, 2)
                if not message:  # it was killed before it could ask
                    status.close()
                    continue
                pid = os.fork()
                if not pid:
                    for _, other in running.values():
                        other.close()
                    listener.close()
                    selector.close()
                    code = _become(json.loads(message), outputs)
                    with status:
                        status.send(f"began {os.getpid()}".encode())
                    return code
                for output in outputs:
                    os.close(output)
                watched = os.pidfd_open(pid)
                running[watched] = pid, status
                selector.register(watched, selectors.EVENT_READ)
            else:
                pid, status = running.pop(key.fd)
                with suppress(OSError), status:
                    status.send(f"ended {os.waitpid(pid, 0)[1]}".encode())
                selector.unregister(key.fd)
                os.close(key.fd)


def _become(request: dict[str, Any], outputs: Sequence[int]) -> str:
    """Make this fork what a fresh process would be before it runs its code."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    for there, here in zip((nothing, *outputs), range(3), strict=True):
        os.dup2(there, here)
        os.close(there)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(request["env"])
    tempfile.tempdir = None  # that of the environment, where it is asked for
    os.chdir(request["cwd"])
    if request["umask"] != -1:
        os.umask(request["umask"])
    places = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [place for place in places if place and place not in sys.path]
    sys.argv[:] = ["-c", *request["words"]]
    random.seed()
    code: str = request["code"]
    return code
