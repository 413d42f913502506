"""A coordinator that signs what it asks, and may ask anything."""

import json
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dpbitfit.accounting.composition import Mechanism
from dpbitfit.errors import AccountingError
from dpbitfit.ledger import AccountName, Ledger, exchange
from dpbitfit.ledger.canonical import counts_to_text
from dpbitfit.plan import Plan
from dpbitfit.protocol.codec import FLOAT32
from dpbitfit.protocol.envelope import Envelope
from dpbitfit.schema import canonical

Fields = dict[str, str | int]

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

    def question(self, plan: Plan, **fields: Any) -> Envelope:
        """A signed question; ``fields`` replaces some of its own."""
        values = {"plan": plan.encode().decode(), "run": self.run, "head": None, **fields}
        return Envelope.sign(self.ledger.signer, "describe", canonical(values))

    def head(self, counts: dict[Mechanism, int], key: str, purpose: str = "train") -> Fields:
        """A signed head that claims to hold so many steps."""
        mine = exchange.head_for(self.ledger, self._account, self.ledger.id, "", key)
        with suppress(AccountingError):
            self.claimed |= Counter(counts)
        steps = counts_to_text(self.claimed)
        account = self.accounts[purpose]
        return replace(mine, account=account, spent=steps).to_config(self.ledger)

    def request(
        self,
        plan: Plan,
        /,
        biases: np.ndarray,
        key: str = "k" * 16,
        purpose: str = "train",
        **fields: Any,
    ) -> Envelope:
        """A signed request; ``fields`` replaces some of its own, ... drops one."""
        known = {}
        with suppress(AccountingError):
            known = {plan.phases[0].mechanism: 10**6, Mechanism(20.0, 1.0): 10**6}
        values = {
            "plan": plan.encode().decode(),
            "run": self.run,
            "round": 1,
            "key": key,
            "head": self.head(known, key, purpose),
            **fields,
        }
        statement = canonical({k: v for k, v in values.items() if v is not ...})
        return Envelope.sign(self.ledger.signer, purpose, statement, FLOAT32.encode(biases))


def changed(envelope: Envelope, **fields: Any) -> Envelope:
    """An envelope whose carrier has put other values in its statement."""
    values = {**json.loads(envelope.statement), **fields}
    return replace(envelope, statement=canonical(values))
