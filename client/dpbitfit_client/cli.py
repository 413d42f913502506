"""``dpbitfit guard`` and ``dpbitfit doctor``: check what a policy permits, and serve it."""

import json
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from dpbitfit.tasks.models import model_digest, resolve_model
from dpbitfit_client.doctor import examine
from dpbitfit_client.policy.policy import Policy
from dpbitfit_client.policy.prose import explain
from dpbitfit_client.policy.summary import describe

CHECK_SECONDS = 5.0  # between two checks whether the records' files have changed

app = typer.Typer(help="The site's guard: its records, its policy, its ledger.")

PolicyFile = Annotated[Path, typer.Option("--policy", help="The site's policy file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


@app.command()
def serve(
    policy: PolicyFile,
    json_log: Annotated[bool, typer.Option("--json-log", help="Log a JSON object a line.")] = False,
) -> None:
    """Answer on the policy's socket until SIGTERM or ctrl-C.

    The log, on standard error, has a line for each request: who asked, for which round, how
    it ended, the epsilon that it was charged, and the bytes that left.
    """
    from dpbitfit_client.guard.audit import JsonLines
    from dpbitfit_client.guard.service import serving

    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(name)s %(message)s")
    handler.setFormatter(JsonLines() if json_log else text)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    os.umask(0o077)  # what the guard writes is its own: the ledger's log holds its key
    rules = Policy.read(policy)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # while it checks
    log = logging.getLogger("dpbitfit.guard")
    with serving(rules) as guard:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        log.info("serving %s", rules.site.socket)
        while not stop.wait(CHECK_SECONDS):
            for change in guard.records.changes():
                log.warning("%s", change)


@app.command()
def check(policy: PolicyFile, json_output: AsJson = False) -> None:
    """Print in plain words what a policy permits in all."""
    rules = Policy.read(policy)
    typer.echo(json.dumps(describe(rules), indent=2) if json_output else explain(rules))


@app.command()
def digest(model: Annotated[str, typer.Argument(help="A model's folder, or minilm.")]) -> None:
    """Print the digest by which a policy names a model."""
    typer.echo(model_digest(Path(resolve_model(model))))


def doctor(
    policy: PolicyFile,
    superlink: Annotated[str, typer.Option(help="HOST:PORT of the coordinator's SuperLink.")] = "",
    root_certificates: Annotated[
        Path | None, typer.Option(help="The CA's certificates, as the SuperNode is given them.")
    ] = None,
    json_output: AsJson = False,
) -> None:
    """Check everything that a site needs, a line each; exit status 2 where a check fails."""
    findings = []
    console, marks = Console(), {"ok": "green", "look": "yellow", "wrong": "red"}
    for finding in examine(policy, superlink, root_certificates):
        findings.append(finding)
        if not json_output:
            mark = (f"{finding.state:6}", marks[finding.state])
            line = Text.assemble(mark, f"{finding.what}: {finding.text}")
            console.print(line, soft_wrap=True)
    if json_output:
        typer.echo(json.dumps([vars(finding) for finding in findings], indent=2))
    if any(finding.state == "wrong" for finding in findings):
        raise typer.Exit(2)
