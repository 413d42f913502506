"""A coordinator that signs what it asks, and may ask anything."""

from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, RecordDict

from dpbitfit.accounting.composition import Mechanism
from dpbitfit.errors import AccountingError
from dpbitfit.ledger import AccountName, Ledger, exchange
from dpbitfit.ledger.events import counts_to_text
from dpbitfit.plan import Plan
from dpbitfit.protocol import codec, payloads

# Of the site that it asks.
ACCOUNTS = {
    "train": "hospital-1/letters/record",
    "evaluate": "hospital-1/letters:evaluation/record",
}


class Coordinator:
    """Its ledger is real; what it claims to have recorded is up to the test."""

    def __init__(self, folder: Path) -> None:
        self.ledger = Ledger(str(folder / "coordinator.sqlite"), create=True)
        self._account = self.ledger.open_account(AccountName("a", "b", "c"), 1e-5, 8.0)
        self.accounts = dict(ACCOUNTS)
        self.run = "run-1"
        self.claimed: Counter[Mechanism] = Counter()

    def question(self, plan: Plan) -> RecordDict:
        signature = self.ledger.signer.sign("describe", payloads.question(plan, self.run))
        asked = {"run": self.run, "ledger": self.ledger.id, "signature": signature}
        plan_said = ConfigRecord(plan.to_config())
        return RecordDict({"asked": ConfigRecord({**asked}), "plan": plan_said})

    def stand(self, counts: dict[Mechanism, int], key: str, purpose: str = "train") -> ConfigRecord:
        """A position that claims to hold so many steps."""
        mine = exchange.position(self.ledger, self._account, self.ledger.id, "", key)
        with suppress(AccountingError):
            self.claimed |= Counter(counts)
        steps = counts_to_text(self.claimed)
        account = self.accounts[purpose]
        claimed = replace(mine, account=account, spent=steps)
        return ConfigRecord({**claimed.to_config(self.ledger)})

    def request(
        self,
        plan: Plan,
        biases: np.ndarray,
        key: str = "k" * 16,
        purpose: str = "train",
        replaced: dict[str, Any] | None = None,
    ) -> RecordDict:
        """A signed request; ``replaced`` changes its parts afterwards, None drops one."""
        packed = biases.astype("<f4").tobytes()
        said = payloads.request(plan, self.run, 1, key, packed)
        signature = self.ledger.signer.sign(purpose, said)
        asked = {"run": self.run, "round": 1, "key": key, "signature": signature}
        known = {}
        with suppress(AccountingError):
            known = {plan.mechanism: 10**6, Mechanism(20.0, 1.0): 10**6}
        content = {
            "biases": codec.encode(biases),
            "plan": ConfigRecord(plan.to_config()),
            "request": ConfigRecord({**asked}),
            "position": self.stand(known, key, purpose),
            **(replaced or {}),
        }
        return RecordDict({k: v for k, v in content.items() if v is not None})
