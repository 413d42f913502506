"""Flower's entry at the coordinator: one run from its configuration to its report."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import Context
from flwr.common import logger
from flwr.serverapp import Grid, ServerApp

from dpbitfit import stream
from dpbitfit.errors import ProtocolError
from dpbitfit.ledger import Ledger
from dpbitfit.protocol import flower
from dpbitfit.settings import RunSettings
from dpbitfit_server.aggregation import STRATEGIES
from dpbitfit_server.report import describe_run, read_report, write_report
from dpbitfit_server.strategy import PrivateStrategy
from dpbitfit_server.stream import ERROR, INFO, log

if TYPE_CHECKING:
    from dpbitfit_server.central_evaluation import PublicEvaluation

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the configured plan; a failure is told in one line, and left in ``OUT/error.json``."""
    folder: Path | None = None
    try:
        settings = RunSettings.read(context.run_config)
        folder = settings.run.folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "error.json").unlink(missing_ok=True)  # of an earlier run here
        run(grid, settings)
        log(INFO, "the model is in %s, the report is %s", folder / "model", folder / "report.html")
    except Exception as error:
        logger.log(ERROR, "%s", stream.failure(error))
        if folder is not None:
            failure = {"code": stream.code_of(error), "message": stream.cause(error)}
            with suppress(OSError):  # the folder itself may be what is at fault
                (folder / "error.json").write_text(json.dumps(failure))
        raise


def run(grid: Grid, settings: RunSettings) -> dict[str, Any]:
    """Train, save the model, write the report; returns the report.

    Raises ProtocolError where no round had enough replies: then there is no model to save.
    """
    from dpbitfit_server.central_evaluation import (
        PublicEvaluation,  # torch, which the rest does not need
    )

    # Only a run that counts alone makes its ledger: one that was lost is not begun anew.
    opened = Ledger(settings.run.ledger_url, create=not settings.run.ledger)
    with opened as ledger, ledger.claim():
        return _run(grid, settings, PublicEvaluation(settings), ledger)


def _run(
    grid: Grid, settings: RunSettings, evaluation: "PublicEvaluation", ledger: Ledger
) -> dict[str, Any]:
    layout, run = evaluation.task.layout, settings.run
    strategy = PrivateStrategy(
        inner=STRATEGIES[run.server_strategy](run.server_learning_rate),
        plan=settings.plan(layout.digest, evaluation.task.digest, evaluation.facts),
        parameters=layout.size,
        budget=run.budget or run.target_epsilon,
        folder=run.folder,
        ledger=ledger,
        min_replies=run.min_replies,
        expected_sites=run.sites,
        on_round=lambda line: _publish(run.folder, strategy, line),
        head=evaluation.linear_head,
    )
    (run.folder / "progress.jsonl").unlink(missing_ok=True)
    resumed = run.resume and strategy.resume()
    for reservation in ledger.reservations():
        # A dead run's rounds are spent; those of the run that goes on are asked for again.
        if not (resumed and reservation.run == strategy.registry.run):
            ledger.commit({reservation.key: "its run died"})
    if resumed and strategy.is_complete and (report := read_report(run.folder)):
        return report  # nothing is left to do, and the sites need not be there
    result = strategy.start(
        grid,
        flower.to_arrays(evaluation.task.pretrained),
        timeout=run.round_timeout,
        evaluate_fn=evaluation,
    )
    if not any(line["replies"] for line in strategy.history):
        missing = [f"{site} ({why})" for site, why in strategy.registry.missing.items()]
        raise ProtocolError(f"no round had enough replies; without {', '.join(missing)}")
    biases = flower.from_arrays(result.arrays, layout.size)
    evaluation.save(run.folder, biases)
    report = describe_run(settings, strategy, evaluation, biases)
    write_report(run.folder, report)
    return report


def _publish(folder: Path, strategy: PrivateStrategy, line: dict[str, Any]) -> None:
    """Let others follow the run: a line for each round, and each account's bytes so far."""
    sites = strategy.registry.sites.values()
    traffic = {str(site.account.name): [site.bytes_down, site.bytes_up] for site in sites}
    draft = folder / "traffic.json.new"
    draft.write_text(json.dumps(traffic))
    os.replace(draft, folder / "traffic.json")
    with (folder / "progress.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
