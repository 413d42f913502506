"""A ServerApp of one's own around ``PrivateStrategy``: another aggregator, and its own ending.

Any strategy of Flower's FedAvg family may be wrapped: it gets checked replies only, with public
weights. Here a trimmed mean: of four sites or more, one that sends nonsense moves it little.
"""

import json
from pathlib import Path

from dpbitfit_server.central_evaluation import PublicEvaluation
from dpbitfit_server.strategy import PrivateStrategy
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedTrimmedAvg

from dpbitfit.ledger import Ledger
from dpbitfit.protocol import flower
from dpbitfit.settings import RunSettings

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train as configured; write the model, and what every site has spent."""
    settings = RunSettings.read(context.run_config)
    run = settings.run
    out = Path(run.out)
    out.mkdir(parents=True, exist_ok=True)
    evaluation = PublicEvaluation(settings)  # holds the model, and public test records
    layout = evaluation.task.layout
    # With `ledger` in the configuration all runs on the same records add up there.
    ledger = Ledger(run.ledger_url, create=not run.ledger)
    with ledger.claim():
        strategy = PrivateStrategy(
            inner=FedTrimmedAvg(beta=0.25),
            plan=settings.plan(layout.digest, evaluation.task.digest, evaluation.facts),
            parameters=layout.size,
            budget=run.budget or run.target_epsilon,
            folder=out,
            ledger=ledger,
            min_replies=run.min_replies,
            expected_sites=run.sites,
            head=evaluation.linear_head,
        )
        result = strategy.start(
            grid,
            flower.to_arrays(evaluation.task.pretrained),
            timeout=run.round_timeout,
            evaluate_fn=evaluation,
        )
        budgets = {str(account.name): account.budget for account in ledger.accounts()}
    evaluation.save(out, flower.from_arrays(result.arrays, layout.size))
    summary = {
        "epsilon": strategy.history[-1]["guaranteed"],  # an upper bound, of every site
        "budgets": budgets,
        "rounds": strategy.history,
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=2))
