"""What a site keeps between two messages, in Flower's ``context.state``.

Its account, its optimizer's moments, and the last reply with the key that asked
for it. It lives as long as the node's process.
"""

import json
from dataclasses import dataclass, field

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from dpbitfit.plan import Plan
from dpbitfit.site_accountant import SiteAccountant
from dpbitfit.training import OptimizerState

_MOMENTS = ("first", "second")


@dataclass
class Memory:
    """The last request that was answered, its answer, and the optimizer's state.

    ``request`` is the key, the plan's digest and the digest of the biases of the
    last request; ``update`` its answer, or None while none was given.
    """

    request: tuple[str, str, str] = ("", "", "")
    update: ArrayRecord | None = None
    optimizer: OptimizerState = field(default_factory=OptimizerState)

    @classmethod
    def recall(cls, state: RecordDict, plan: Plan, accountant: SiteAccountant) -> "Memory":
        """What ``state`` holds; the account goes into ``accountant``.

        Moments of another plan are forgotten: they were made with other steps.
        """
        kept = state.get("memory")
        if not isinstance(kept, ConfigRecord):
            return cls()
        accountant.load_state_dict(json.loads(str(kept["account"])))
        memory = cls((str(kept["key"]), str(kept["plan_digest"]), str(kept["biases_digest"])))
        memory.update = state.array_records.get("update")
        moments = state.array_records.get("moments")
        if moments is not None and kept["plan_digest"] == plan.digest:
            first, second = (moments[name].numpy() for name in _MOMENTS)
            memory.optimizer = OptimizerState(int(str(kept["step"])), first, second)
        return memory

    def keep(self, state: RecordDict, accountant: SiteAccountant) -> None:
        """Put it all into ``state``."""
        key, plan_digest, biases_digest = self.request
        state["memory"] = ConfigRecord(
            {
                "key": key,
                "plan_digest": plan_digest,
                "biases_digest": biases_digest,
                "step": self.optimizer.step,
                "account": json.dumps(accountant.state_dict()),
            }
        )
        state.pop("update", None)
        if self.update is not None:
            state["update"] = self.update
        state.pop("moments", None)
        first, second = self.optimizer.first, self.optimizer.second
        if first is not None and second is not None:
            state["moments"] = ArrayRecord({"first": Array(first), "second": Array(second)})
