"""A coordinator that signs what it asks, and may ask anything."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dpbitfit.accounting.mechanism import Counts, Mechanism, checked, merged
from dpbitfit.ledger import AccountName, Ledger, exchange, peers
from dpbitfit.ledger.canonical import counts_to_text
from dpbitfit.ledger.reader import Reader
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
    """Its ledger is real; it claims to have recorded what the ``site`` has, and the round ahead."""

    def __init__(self, folder: Path) -> None:
        self.ledger = Ledger(str(folder / "coordinator.sqlite"), create=True)
        self._account = self.ledger.open_account(AccountName("a", "b", "c"), 1e-5, 8.0)
        self.accounts = dict(ACCOUNTS)
        self.run = "run-1"
        self.site: Path | None = None  # the file of the site's ledger

    def question(self, plan: Plan, **fields: Any) -> Envelope:
        """A signed question; ``fields`` replaces some of its own."""
        values = {"plan": plan.encode().decode(), "run": self.run, "head": None, **fields}
        return Envelope.sign(self.ledger.signer, "describe", canonical(values))

    def head(self, counts: Mapping[Mechanism, int], key: str, purpose: str = "train") -> Fields:
        """A signed head that claims to hold ``counts``."""
        mine = exchange.head_for(self.ledger, self._account, self.ledger.id, "", key)
        stated = {"account": self.accounts[purpose], "spent": counts_to_text(checked(counts))}
        return replace(mine, **stated, runs="").to_config(self.ledger)

    def recorded(self, purpose: str) -> Counts:
        """What the site's ledger holds of this coordinator's runs."""
        if self.site is None or not self.site.exists():
            return ()
        with Reader(str(self.site), readonly=True) as reader:
            ids = [a.id for a in reader.accounts() if str(a.name) == self.accounts[purpose]]
            with reader.database.read() as connection:
                runs = [peers.runs_of(connection, number, self.ledger.id) for number in ids]
        return merged(pair for each in runs for pair in peers.total(each))

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
        ahead: Counts = ((Mechanism(20.0, 1.0), len(plan.site_metrics.names)),)
        if purpose == "train":
            ahead = plan.phases[0].round_counts
        values = {
            "plan": plan.encode().decode(),
            "run": self.run,
            "round": 1,
            "key": key,
            "head": self.head(dict(merged((*self.recorded(purpose), *ahead))), key, purpose),
            **fields,
        }
        statement = canonical({k: v for k, v in values.items() if v is not ...})
        return Envelope.sign(self.ledger.signer, purpose, statement, FLOAT32.encode(biases))


def changed(envelope: Envelope, **fields: Any) -> Envelope:
    """An envelope whose carrier has put other values in its statement."""
    values = {**json.loads(envelope.statement), **fields}
    return replace(envelope, statement=canonical(values))
