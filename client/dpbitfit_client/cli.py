"""``dpbitfit guard``: check what a policy permits, and serve it."""

import logging
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from dpbitfit_client.explain import explain
from dpbitfit_client.policy import Policy

app = typer.Typer(help="The site's guard: its records, its policy, its ledger.")

PolicyFile = Annotated[Path, typer.Option("--policy", help="The site's policy file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


@app.command()
def serve(policy: PolicyFile) -> None:
    """Answer on the policy's socket until SIGTERM or ctrl-C."""
    from dpbitfit_client.service import serving

    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s %(message)s"
    )
    read = Policy.read(policy)
    stop = threading.Event()
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, lambda *_: stop.set())
    with serving(read):
        logging.getLogger("dpbitfit.guard").info("serving %s", read.site.socket)
        stop.wait()
