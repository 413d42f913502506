"""``dpbitfit run``: a run of a federation, followed to its end.

Thin over ``flwr run``, ``flwr log`` and ``flwr list``: of the log it shows what the
coordinator says, and it ends as the run does.
"""

import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from os import environ
from pathlib import Path
from typing import Any

import click

from dpbitfit import run_options, stream
from dpbitfit.errors import DpbitfitError, InputError, RunFailed
from dpbitfit.flower_tools import environment, tool, write_app
from dpbitfit.schema import Scalar
from dpbitfit.settings import OPTIONS, RunSettings
from dpbitfit.simulate_command import INTERRUPTED

ATTEMPTS, PAUSE_SECONDS = 20, 3.0  # to reach a SuperLink that has answered before
# What only a simulation needs: here records are the sites' own.
SIMULATED = (
    *("data", "site-column", "skew", "seed", "site-ledgers", "test-fraction"),
    *("device", "precision"),
)
_REQUIRED = ("test-data", "out", "ledger")
_PATHS = ("test-data", "out", "ledger")
_HERE: dict[str, tuple[Scalar, str]] = {
    "sites": (1, "How many sites to plan for, and to wait for, a minute at most."),
    "declared-size": (0, "Public size that a site declares; phases of the head need it."),
    "out": ("", "Folder for the results, where the coordinator's app runs."),
    "ledger": ("", "The coordinator's ledger: a path or a URL."),
}


def run(superlink: str, **values: Any) -> None:
    """Run a plan at the sites of SUPERLINK, a connection of Flower's config.toml.

    Paths are absolute, and of the machine on which the coordinator's app runs. Ends with a
    status other than 0, and the cause in the last line, where the run fails.
    """
    config = {option.key: option.default for option in OPTIONS} | run_options.config(values)
    for key in _PATHS:
        if not ("://" in config[key] or Path(config[key]).is_absolute()):
            raise InputError(f"--{key}: {config[key]} must be an absolute path")
    settings = RunSettings.read(config)
    labels = 2 if settings.task.trains_head else 0  # how many there are is known where it runs
    settings.plan("", "", settings.facts(labels, 1))  # whether it can be calibrated
    with tempfile.TemporaryDirectory(prefix="dpbitfit-") as folder:
        write_app(Path(folder) / "app", config)
        run_id = str(_ask("run", f"{folder}/app", superlink)["run-id"])
    click.echo(f"run {run_id} has started")
    try:
        _follow(run_id, superlink)
    except KeyboardInterrupt:
        click.echo(
            f"run {run_id} goes on: flwr log {run_id} {superlink} shows it, "
            f"flwr stop {run_id} {superlink} ends it",
            err=True,
        )
        raise click.exceptions.Exit(INTERRUPTED) from None


command = click.Command(
    "run",
    callback=run,
    params=[click.Argument(["superlink"]), *run_options.parameters(SIMULATED, _REQUIRED, _HERE)],
    help=run.__doc__,
)


def _follow(run_id: str, superlink: str) -> None:
    """Show what the coordinator says until the run has ended; raise what it failed with."""
    shown = 0
    failure: DpbitfitError | None = None
    while True:
        # The log begins anew where its stream was cut off.
        for number, line in enumerate(_lines(run_id, superlink)):
            if number < shown:
                continue
            shown += 1
            if isinstance(line, DpbitfitError):
                failure = line
            elif failure is None:
                click.echo(line)
        status, details = _status(run_id, superlink)
        if status == "finished:completed":
            return
        if status.startswith("finished"):
            raise failure or RunFailed(_cause(status, details))
        time.sleep(PAUSE_SECONDS)


def _lines(run_id: str, superlink: str) -> Iterator[str | DpbitfitError]:
    """What the coordinator says in a run's log, as it comes."""
    command = [*tool("flwr"), "log", run_id, superlink]
    with subprocess.Popen(
        command,
        env=environment(environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        errors="replace",
    ) as log:
        assert log.stdout is not None
        for line in log.stdout:
            if (text := stream.read(line)) is not None:
                yield text


def _status(run_id: str, superlink: str) -> tuple[str, str]:
    """A run's state in Flower's words, and its details; RunFailed where no answer comes."""
    for attempt in range(ATTEMPTS):
        time.sleep(PAUSE_SECONDS if attempt else 0)
        try:
            (state,) = _ask("list", superlink, "--run-id", run_id)["runs"]
        except RunFailed as error:
            failure = error
        else:
            return str(state["status"]), str(state["status-details"])
    raise RunFailed(f"what became of run {run_id} is not known: {failure}")


def _ask(*words: str) -> dict[str, Any]:
    """The answer of one of Flower's tools; RunFailed, with its reason, where it has none."""
    done = subprocess.run(
        [*tool("flwr"), *words, "--format", "json"],
        env=environment(environ),
        capture_output=True,
        text=True,
    )
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise RunFailed(f"flwr {words[0]}: {lines[-1] if lines else 'no answer'}") from None
    if not answer.get("success"):
        raise RunFailed(f"flwr {words[0]}: {answer.get('error-message', 'it failed')}")
    return answer


def _cause(status: str, details: str) -> str:
    """Why a run ended that did not say so itself."""
    if status == "finished:stopped":
        return "the run was stopped"
    return details.removeprefix("ServerApp failed with exception: ") or "the run has failed"
