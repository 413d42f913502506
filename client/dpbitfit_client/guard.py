"""The one object that touches a site's records: it describes, and it trains a round.

It holds model and tokenised records, so that only the first round pays for
loading them. Its ledger is the authority on what the site has spent: a round is
reserved there before any record is touched, and its answer is kept there in the
transaction that commits it.
"""

import importlib.metadata
from collections.abc import Mapping
from typing import Any, Self

from dpbitfit.errors import AnswerLost, BudgetError, ProtocolError
from dpbitfit.ledger import Ledger, Name, exchange
from dpbitfit.ledger.outbox import Reply
from dpbitfit.plan import Plan
from dpbitfit.tasks import TextTask
from dpbitfit.training import train_round
from dpbitfit_client import answer
from dpbitfit_client.request import Request
from dpbitfit_client.shard import Shard, load_shard

WAIT_SECONDS = 600  # for a round that another process of this site is still training


class Guard:
    """A site's shard, its task, its tokenised records and its ledger."""

    def __init__(self, shard: Shard, task: TextTask) -> None:
        self.shard = shard
        self.task = task
        self.ledger = Ledger(shard.ledger, create=True)
        name = Name(shard.name, shard.dataset, shard.unit)
        self.account = self.ledger.open_account(name, shard.delta, shard.budget)
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
            "dataset": self.shard.dataset,
            "unit": self.shard.unit,
            "declared_size": self.shard.declared_size,
            "layout_digest": self.task.layout.digest,
            "model_digest": self.task.digest,
            "parameters": self.task.layout.size,
            "version": importlib.metadata.version("dpbitfit"),
        }

    def position(self, coordinator: str, key: str) -> dict[str, str | int]:
        """Where this site's ledger stands, signed, for a coordinator."""
        stands = exchange.position(self.ledger, self.account, coordinator, coordinator, key)
        return stands.to_config(self.ledger)

    def answer(self, request: Request) -> bytes:
        """The answer to a request, trained once: asked again, it is the same bytes.

        Raises a DpbitfitError when the site does not accept the request; then no
        record was touched, unless the request's key is reserved in the ledger.
        """
        with self.ledger.claim(WAIT_SECONDS):
            self.ledger.settle("crashed", self.account.id)
            kept = self.ledger.reply(request.key)
            if kept is not None:
                # Fresh noise for the same question would be a second release.
                if kept.request != request.digest(self.task.digest) or kept.payload is None:
                    raise ProtocolError("this key was used for another request")
                return kept.payload
            self._accept(request)
            payload = self._train(request)
            digest = request.digest(self.task.digest)
            self.ledger.commit({request.key: "reply"}, Reply(request.key, digest, payload))
        return payload

    def decline(self, request: Request) -> str:
        """The site's signature that this request's key touched no data and never will.

        Empty where the key has touched data, or may have.
        """
        name = self.account.name
        if not self.ledger.void_key(name, request.run, request.round, request.key):
            return ""
        return self.ledger.signer.sign("untouched", {"key": request.key})

    def _accept(self, request: Request) -> None:
        """Reserve one round of the plan, durably, or refuse it; no record is touched."""
        plan = request.plan
        self._agree(plan)
        counts = plan.counts(plan.steps_per_round)
        coordinator = request.position.ledger
        exchange.check(self.ledger, self.account, request.position, coordinator, counts)
        bag = plan.counts(plan.steps)
        self.ledger.allot(self.account.name, request.run, plan.digest, bag, coordinator)
        before = self.ledger.reservation(request.key)
        if before is not None and before.state == "void":
            raise ProtocolError("this key was given up, as this site has signed")
        if before is not None:
            raise AnswerLost("this key was used before, and its answer is lost")
        self.ledger.reserve(request.run, request.round, {self.account.id: request.key}, counts)

    def _agree(self, plan: Plan) -> None:
        if plan.layout_digest != self.task.layout.digest or plan.model_digest != self.task.digest:
            raise ProtocolError("the plan is for another model than this site's")
        if plan.unit != self.shard.unit:
            raise ProtocolError(f"the plan's unit of privacy is not {self.shard.unit!r}")
        if plan.noise == "fast-insecure" and not self.shard.allows_fast_noise:
            raise ProtocolError("this site adds cryptographic noise only")
        if plan.delta != self.shard.delta:
            raise BudgetError(f"this site's budget is at delta {self.shard.delta:g}")

    def _train(self, request: Request) -> bytes:
        """Train a reserved round; its change and the optimizer's new state, packed."""
        before = self.ledger.last_reply(self.account, request.run)
        change, state = train_round(
            self.task.model,
            self.task.layout,
            self._records,
            request.plan,
            self.shard.declared_size,
            request.biases,
            answer.state_of(before.payload if before else None),
        )
        return answer.pack(change, state)
