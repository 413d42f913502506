"""A federated run on one machine: a private Flower home, the run, and the cleaning up.

The Flower processes start in an empty directory with an app bundle that holds
configuration and licence only, so that what runs is the installed packages.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from dpbitfit.errors import InputError, ProtocolError, RunFailed, kinds
from dpbitfit.flower_tools import environment, tool, write_app
from dpbitfit.schema import Scalar

START_SECONDS = 60
STOP_SECONDS = 15
POLL_SECONDS = 0.2
CRASHED = "Simulation Runtime crashed"  # Flower's words for it, Ray's own error above them
LONGEST_FOLDER = 20  # of the 107 characters of a socket's name Ray needs some 65


def simulate(
    config: Mapping[str, Scalar],
    sites: int,
    on_round: Callable[[dict[str, Any]], None],
    gpus_per_site: float = 0,
) -> dict[str, Any]:
    """Run ``config`` with ``sites`` simulated sites; returns the report.

    ``config`` holds every key of ``[tool.flwr.app.config]``; ``on_round`` gets
    each line of the run's progress as it appears. Whatever this call started is
    stopped when it returns or raises, on an interrupt too.

    Raises RunFailed when the run ends without a report, and the run's own error
    (an InputError, for example) when it named one.
    """
    out = make_folder("out", str(config["out"]))
    for name in ("progress.jsonl", "error.json", "report.json"):
        (out / name).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(
        prefix="dpbitfit-", dir=_short_folder(), ignore_cleanup_errors=True
    ) as scratch:
        home = Path(scratch).resolve()
        write_app(home / "app", {**config, "out": str(out)})
        log = out / "flower.log"
        log.unlink(missing_ok=True)
        with _superlink(home, log) as (variables, superlink), log.open("ab") as stream:
            run = subprocess.Popen(
                [
                    *tool("flwr"),
                    *("run", str(home / "app"), "dpbitfit", "--stream"),
                    "--federation-config",
                    f"num-supernodes={sites} client-resources-num-cpus=1 "
                    f"client-resources-num-gpus={gpus_per_site:.1f}",
                ],
                cwd=home,
                env=variables,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
            try:
                _follow(out, run, superlink, on_round)
            finally:
                _end(run)
    return _result(out, log)


def make_folder(option: str, path: str) -> Path:
    """The folder that an option names, made where it is new; InputError where it cannot be."""
    folder = Path(path).resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--{option}: {folder} cannot be a folder: {error.strerror}") from error
    return folder


def _short_folder() -> str | None:
    """Where temporary folders go: as usual, unless the names of Ray's sockets would be too long."""
    return None if len(tempfile.gettempdir()) <= LONGEST_FOLDER else "/tmp"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _superlink(home: Path, log: Path) -> Iterator[tuple[dict[str, str], "subprocess.Popen[bytes]"]]:
    """A SuperLink of its own, in its own session, gone when the block ends."""
    port = _free_port()
    variables = {
        **environment(os.environ),
        "FLWR_HOME": str(home),
        "RAY_ADDRESS": "",  # a Ray of its own, where a cluster's address is set too
        "RAY_TMPDIR": str(home),
        "RAY_DISABLE_IMPORT_WARNING": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_prestart_worker_first_driver": "0",  # else one a core, which no site uses
        "TOKENIZERS_PARALLELISM": "false",
    }
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "dpbitfit"\n\n[superlink.dpbitfit]\n'
        f'address = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [
                *tool("flower-superlink"),
                *("--insecure", "--simulation", "--isolation", "subprocess"),
                *("--host", "127.0.0.1", "--port", str(port), "--database", str(home / "state.db")),
            ],
            cwd=home,
            env=variables,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    watch = [sys.executable, "-c", "from dpbitfit.simulate import end_family; end_family()"]
    watcher = subprocess.Popen([*watch, str(home)], stdin=subprocess.PIPE, start_new_session=True)
    try:
        _await_health(port, process, log)
        yield variables, process
    finally:
        _end(process)
        watcher.communicate()  # closes its input


def _await_health(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(urllib.error.URLError, OSError):
            direct.open(f"http://127.0.0.1:{port}/health", timeout=1).close()
            return
        time.sleep(POLL_SECONDS)
    raise RunFailed(f"Flower's SuperLink did not start; its log is {log}")


def _follow(
    out: Path,
    run: "subprocess.Popen[bytes]",
    superlink: "subprocess.Popen[bytes]",
    on_round: Callable[[dict[str, Any]], None],
) -> None:
    progress = out / "progress.jsonl"
    position = 0
    ended = False
    while True:
        # Look whether the run has ended before reading, so that its last line is read too.
        ended = run.poll() is not None or superlink.poll() is not None
        if progress.exists():
            with progress.open() as lines:
                lines.seek(position)
                while (line := lines.readline()).endswith("\n"):
                    position = lines.tell()
                    on_round(json.loads(line))
        if ended or (out / "error.json").exists():
            return
        time.sleep(POLL_SECONDS)


def _result(out: Path, log: Path) -> dict[str, Any]:
    error, report = out / "error.json", out / "report.json"
    failed = error.exists() or not report.exists()
    # What the server app failed with after a crash is a consequence of it.
    if failed and log.exists() and CRASHED in log.read_text(errors="replace"):
        raise RunFailed(
            "Flower's simulation runtime crashed, as where Ray cannot start its processes within "
            f"30 seconds on a busy machine: run it again with --resume; its log is {log}"
        )
    if error.exists():
        failure = json.loads(error.read_text())
        kind = kinds().get(failure["code"], RunFailed)
        # What a site refuses for, or which line of code failed, only the log says.
        more = f"; the log is {log}" if issubclass(kind, (ProtocolError, RunFailed)) else ""
        raise kind(failure["message"] + more)
    if not report.exists():
        raise RunFailed(f"the run ended without a report; its log is {log}")
    result: dict[str, Any] = json.loads(report.read_text())
    return result


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
            return
        process.kill()
        process.wait()


def end_family() -> None:
    """A process of its own: stop all that a SuperLink started, once the simulation is gone.

    That is when its input ends, also where the simulation is killed. The server app, Ray and its
    workers would go on. Ray's daemons leave both the process group and the family tree, start one
    another anew, and overwrite their environment with a title. What remains to know them by is
    the directory, which is the only word of the command, or that variable.
    """
    sys.stdin.read()
    home = Path(sys.argv[1])
    deadline = time.monotonic() + STOP_SECONDS
    while (left := list(_living_in(home))) and time.monotonic() < deadline:
        for other in left:
            with suppress(psutil.Error):
                other.kill()
        psutil.wait_procs(left, timeout=POLL_SECONDS)
    shutil.rmtree(home, ignore_errors=True)


def _living_in(home: Path) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("FLWR_HOME") == str(home) or process.cwd() == str(home):
                yield process
