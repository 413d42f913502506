"""The one object that touches a site's records: it describes, and it trains a round.

It holds model and tokenised records, so that only the first round pays for
loading them, and it refuses what the site did not agree to before any record is
touched.
"""

import importlib.metadata
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dpbitfit import accounting
from dpbitfit.errors import BudgetError, ProtocolError
from dpbitfit.plan import Plan
from dpbitfit.site_accountant import SiteAccountant
from dpbitfit.tasks import TextTask
from dpbitfit.training import OptimizerState, train_round
from dpbitfit_client.shard import Shard, load_shard


class Guard:
    """A site's shard, its task and its tokenised records."""

    def __init__(self, shard: Shard, task: TextTask) -> None:
        self.shard = shard
        self.task = task
        self._records = task.records(shard.examples)

    @classmethod
    def load(cls, run: Mapping[str, Any], node: Mapping[str, Any]) -> Self:
        """Read shard and model; InputError or ModelError where they are unusable."""
        shard = load_shard(run, node)
        task = TextTask.load(
            str(node.get("model", run["model"])),
            shard.labels,
            str(run["head"]),
            float(run["logit-scale"]),
            int(run["max-length"]),
        )
        return cls(shard, task)

    def describe(self) -> dict[str, str | int]:
        """What this site states about itself: public constants only."""
        return {
            "site": self.shard.name,
            "declared_size": self.shard.declared_size,
            "layout_digest": self.task.layout.digest,
            "model_digest": self.task.digest,
            "parameters": self.task.layout.size,
            "version": importlib.metadata.version("dpbitfit"),
        }

    def accountant(self, plan: Plan) -> SiteAccountant:
        """An empty account at the plan's delta, with this site's budget."""
        return SiteAccountant.of(plan.delta, self.shard.declared_size, self.shard.budget)

    def accept(self, plan: Plan, accountant: SiteAccountant) -> None:
        """Charge one round of ``plan``, or refuse it; no record is touched.

        Raises ProtocolError for a plan that this site has not agreed to,
        BudgetError for one that costs too much.
        """
        if plan.layout_digest != self.task.layout.digest or plan.model_digest != self.task.digest:
            raise ProtocolError("the plan is for another model than this site's")
        if plan.unit != self.shard.unit:
            raise ProtocolError(f"the plan's unit of privacy is not {self.shard.unit!r}")
        if plan.noise == "fast-insecure" and not self.shard.allows_fast_noise:
            raise ProtocolError("this site adds cryptographic noise only")
        whole = accounting.epsilon({plan.mechanism: plan.steps}, plan.delta)
        if whole.epsilon > self.shard.budget:
            raise BudgetError("the plan costs more than this site's budget")
        if accountant.would_pass(plan.mechanism, plan.steps_per_round):
            raise BudgetError("this site's budget is spent")
        accountant.charge(plan.mechanism, plan.steps_per_round)

    def train(
        self, plan: Plan, biases: NDArray[np.float32], state: OptimizerState
    ) -> tuple[NDArray[np.float32], OptimizerState]:
        """Train an accepted round from ``biases`` [P]; the change [P] and the new state."""
        return train_round(
            self.task.model,
            self.task.layout,
            self._records,
            plan,
            self.shard.declared_size,
            biases,
            state,
        )
