"""A federation as in the field, on this machine's loopback: TLS, node keys, a guard for each site.

Whatever is started here is gone when the block ends; should the test itself be
killed, the kernel ends its children with it.
"""

import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from dpbitfit_client.guard_client import SocketGuardClient

from dpbitfit import flower_tools, run_command, simulate
from dpbitfit.errors import GuardUnavailable

from . import warm
from .certificates import Authority

START_SECONDS = 120
POLL_SECONDS = 0.1
WATCH_SECONDS = 0.5
_STARTED: list["subprocess.Popen[bytes] | warm.Process"] = []  # by this process, to be waited for

# Every process of a SuperNode says that it began, and whether it ever tried to import these.
_WATCH = """\
import os, sys

def tell(what):
    with open(os.environ["DPBITFIT_WATCHED"], "a") as file:
        file.write(f"{what} {os.path.basename(sys.orig_argv[1])}\\n")

def hear(event, said):
    if event == "import" and said[0] in ("torch", "transformers"):
        tell(f"imports-{said[0]}")

tell("starts")
sys.addaudithook(hear)
"""


class Guard:
    """A site's ``dpbitfit guard serve``, which a test may kill, pause and start anew."""

    def __init__(self, home: Path, policy: Path, socket: Path, environment: dict[str, str]) -> None:
        self.socket = socket
        self.log = home / "site-logs" / f"{policy.stem}.log"
        self._home, self._policy, self._environment = home, policy, environment
        self.start()

    def start(self) -> None:
        """Start it, or start it again, and wait until it answers."""
        words = ("guard", "serve", "--policy", str(self._policy))
        with self.log.open("ab") as file:
            given: Any = {"stdout": file, "stderr": file, "cwd": self._home}
            self._process = warm.Process(warm.MAIN, *words, **given, env=self._environment)
        _STARTED.append(self._process)
        _await(self._answers, self._process, self.log)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)
        if number == signal.SIGKILL:
            self._process.wait()

    def stop(self) -> int:
        """Ask it to end; its exit status."""
        self._process.terminate()
        return self._process.wait(START_SECONDS)

    def _answers(self) -> bool:
        with suppress(GuardUnavailable):
            return bool(SocketGuardClient(str(self.socket), 1).status(1).site)
        return False


class Federation:
    """What runs: a SuperLink with its executor, and a SuperNode and a guard for each site."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.guards: dict[str, Guard] = {}
        self.logs = home / "logs"
        self.watched = home / "watched.txt"
        self.programs = home / "bin"  # found before those of this environment
        for folder in ("logs", "site-logs", "tmp", "watch", "bin"):
            (home / folder).mkdir()
        warm.program(self.programs / "flwr-serverapp", warm.SERVER_APP)
        (home / "watch" / "sitecustomize.py").write_text(_WATCH)
        self.environment = {
            **os.environ,
            "FLWR_HOME": str(home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "OMP_NUM_THREADS": "1",  # the guards and the server share this machine's cores
            "TMPDIR": str(home / "tmp"),  # what a killed guard leaves there goes too
            "PATH": os.pathsep.join(
                [str(self.programs), str(Path(sys.executable).parent), os.environ["PATH"]]
            ),
        }
        self._authority = Authority(home, "ca")

    def start_superlink(self) -> None:
        """A SuperLink with TLS and node keys, and the one executor that knows its secret."""
        certificate, key = self._authority.issue("superlink")
        port, secret = simulate._free_port(), self.home / "secret"
        secret.write_bytes(os.urandom(32))
        self.address = f"127.0.0.1:{port}"
        (self.home / "config.toml").write_text(
            f'[superlink]\ndefault = "field"\n\n[superlink.field]\naddress = "{self.address}"\n'
            f'root-certificates = "{self._authority.certificate}"\n'
        )
        secured = ("--superexec-auth-secret-file", str(secret))
        superlink = self._start(
            *("flower-superlink", "--host", "127.0.0.1", "--port", str(port), "--isolation"),
            *("process", *secured, "--ssl-ca-certfile", str(self._authority.certificate)),
            *("--ssl-certfile", str(certificate), "--ssl-keyfile", str(key)),
            *("--enable-supernode-auth", "--database", str(self.home / "state.db")),
            "--disable-runtime-dependency-installation",
        )
        trust = ssl.create_default_context(cafile=str(self._authority.certificate))

        def healthy() -> bool:
            with suppress(OSError):
                urllib.request.urlopen(
                    f"https://{self.address}/health", timeout=1, context=trust
                ).close()
                return True
            return False

        _await(healthy, superlink, self.logs / "flower-superlink.log")
        authority = str(self._authority.certificate)
        self._start(
            *("flower-superexec", "--runtime-api-address", self.address),
            *("--root-certificates", authority, *secured),
        )

    def add_site(self, name: str, policy: Path, socket: Path) -> None:
        """A guard with its policy, and a registered SuperNode that knows its socket only."""
        self.guards[name] = Guard(self.home, policy, socket, self.environment)
        key = ec.generate_private_key(ec.SECP384R1())
        private, public = self.home / f"{name}.node", self.home / f"{name}.node.pub"
        form, none = serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        private.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, none))
        ssh = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        public.write_bytes(key.public_key().public_bytes(*ssh))
        self._flwr("supernode", "register", str(public), "field", "--name", name)
        path = [str(self.home / "watch"), os.environ.get("PYTHONPATH", "")]
        self._start(
            *("flower-supernode", "--superlink", self.address),
            *("--root-certificates", str(self._authority.certificate)),
            *("--auth-supernode-private-key", str(private)),
            *("--node-config", f'guard="{socket}"'),
            *("--host", "127.0.0.1", "--port", str(simulate._free_port())),
            log=name,
            PYTHONPATH=os.pathsep.join(path),
            DPBITFIT_WATCHED=str(self.watched),
        )

    def run(self, config: Mapping[str, Any], between: Callable[[], None]) -> Iterator[Any]:
        """Each line of a run's progress as it appears; then its report.

        ``between`` is called again and again while the run goes on.
        """
        out = Path(config["out"])
        words = [word for key, value in config.items() for word in _option(key, value)]
        command = [sys.executable, "-c", warm.MAIN, "run", "field", *words]
        self.told = self.logs / f"run-{out.name}.log"
        run = _start(command, self.home, self.environment, self.told)
        seen = 0
        while run.poll() is None:
            lines = _lines(out / "progress.jsonl")
            yield from lines[seen:]
            seen = len(lines)
            between()
            time.sleep(WATCH_SECONDS)
        yield from _lines(out / "progress.jsonl")[seen:]
        assert run.returncode == 0, self.told.read_text()
        yield json.loads((out / "report.json").read_text())

    def fail(self, config: Mapping[str, Any]) -> tuple[int, list[str]]:
        """The status of a run that should fail, and the lines that it has printed."""
        words = [word for key, value in config.items() for word in _option(key, value)]
        done = warm.run(
            *(warm.MAIN, "run", "field", *words),
            cwd=self.home,
            env=self.environment,
        )
        return done.returncode, [*done.stdout.splitlines(), *done.stderr.splitlines()]

    def _flwr(self, *arguments: str) -> None:
        command = [*flower_tools.tool("flwr"), *arguments]
        subprocess.run(
            command, cwd=self.home, env=self.environment, check=True, capture_output=True
        )

    def _start(
        self, tool: str, *arguments: str, log: str = "", **more: str
    ) -> "subprocess.Popen[bytes]":
        command = [*flower_tools.tool(tool), *arguments]
        environment = {**self.environment, **more}
        return _start(command, self.home, environment, self.logs / f"{log or tool}.log")


@contextmanager
def federation() -> Iterator[Federation]:
    """A federation without sites, in a folder of its own."""
    home = Path(tempfile.mkdtemp(prefix="dpbitfit-", dir=simulate._short_folder())).resolve()
    try:
        made = Federation(home)
        made.start_superlink()
        yield made
    finally:
        end(home)
        shutil.rmtree(home)


def end(home: Path) -> None:
    """Kill all that lives in a federation's folder, and what it starts meanwhile."""
    while left := living_in(home):
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=POLL_SECONDS)
    while _STARTED:
        _STARTED.pop().wait()


def living_in(home: Path) -> list[psutil.Process]:
    """The processes that were started for a federation."""
    living = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    return [one for one in simulate._living_in(home) if one.status() not in living]


def _start(
    command: list[str], home: Path, environment: dict[str, str], log: Path
) -> "subprocess.Popen[bytes]":
    if setpriv := shutil.which("setpriv"):
        command = [setpriv, "--pdeathsig", "KILL", *command]
    with log.open("ab") as file:
        started = subprocess.Popen(command, cwd=home, env=environment, stdout=file, stderr=file)
    _STARTED.append(started)
    return started


def _await(
    ready: Callable[[], bool], process: "subprocess.Popen[bytes] | warm.Process", log: Path
) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(POLL_SECONDS)


def _option(key: str, value: Any) -> list[str]:
    """A key of the configuration as ``dpbitfit run`` takes it; none for a simulation's own."""
    if key in run_command.SIMULATED or value is False:
        return []
    return [f"--{key}"] if value is True else [f"--{key}", str(value)]


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    whole = path.read_text().rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]
