"""Flower's entry at the coordinator: one run from its configuration to its report."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from dpbitfit.errors import DpbitfitError
from dpbitfit.ledger import Ledger
from dpbitfit.protocol import codec
from dpbitfit_server.report import describe_run, write_report
from dpbitfit_server.settings import Settings
from dpbitfit_server.strategy import PrivateStrategy

if TYPE_CHECKING:
    from dpbitfit_server.central_evaluation import PublicEvaluation

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the configured plan; a failure is also left in ``OUT/error.json``."""
    settings = Settings.read(context.run_config)
    settings.folder.mkdir(parents=True, exist_ok=True)
    try:
        run(grid, settings)
    except DpbitfitError as error:
        said = {"code": error.code, "message": str(error)}
        (settings.folder / "error.json").write_text(json.dumps(said))
        raise


def run(grid: Grid, settings: Settings) -> dict[str, Any]:
    """Train, save the model, write the report; returns the report."""
    from dpbitfit_server.central_evaluation import (
        PublicEvaluation,  # torch, which the rest does not need
    )

    # Only a run that counts alone makes its ledger: one that was lost is not begun anew.
    ledger = Ledger(settings.ledger_url, create=not settings.ledger)
    with ledger.claim():
        return _run(grid, settings, PublicEvaluation(settings), ledger)


def _run(
    grid: Grid, settings: Settings, evaluation: "PublicEvaluation", ledger: Ledger
) -> dict[str, Any]:
    layout = evaluation.task.layout
    strategy = PrivateStrategy(
        inner=settings.strategy(),
        plan=settings.plan(layout.digest, evaluation.task.digest),
        parameters=layout.size,
        budget=settings.budget or settings.target_epsilon,
        folder=settings.folder,
        ledger=ledger,
        min_replies=settings.min_replies,
        expected_sites=settings.sites,
        on_round=lambda line: _tell(settings.folder, strategy, line),
    )
    (settings.folder / "progress.jsonl").unlink(missing_ok=True)
    resumed = settings.resume and strategy.resume()
    for one in ledger.reservations():
        # A dead run's rounds are spent; those of the run that goes on are asked for again.
        if not (resumed and one.run == strategy.roster.run):
            ledger.commit({one.key: "its run died"})
    result = strategy.start(
        grid,
        codec.encode(evaluation.initial),
        timeout=settings.round_timeout,
        evaluate_fn=evaluation,
    )
    biases = codec.decode(result.arrays, layout.size)
    evaluation.save(settings.folder, biases)
    report = describe_run(settings, strategy, evaluation.parameters, evaluation.initial, biases)
    write_report(settings.folder, report)
    return report


def _tell(folder: Path, strategy: PrivateStrategy, line: dict[str, Any]) -> None:
    """Let others follow the run: a line for each round, and each account's bytes so far."""
    sites = strategy.roster.sites.values()
    traffic = {str(site.account.name): [site.bytes_down, site.bytes_up] for site in sites}
    draft = folder / "traffic.json.new"
    draft.write_text(json.dumps(traffic))
    os.replace(draft, folder / "traffic.json")
    with (folder / "progress.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
