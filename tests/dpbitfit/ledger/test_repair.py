"""Any order of rounds, losses, restored backups and repairs: no real step is ever unrecorded."""

import shutil
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dpbitfit.errors import LedgerError
from dpbitfit.ledger import repair
from dpbitfit.ledger.heads import Heads

from .test_exchange import NAME, ROUND, STEP, Pair, Side

RUNS = ("a", "b")
sides = st.sampled_from(["site", "coordinator"])
runs = st.sampled_from(RUNS)


class RepairMachine(RuleBasedStateMachine):
    """A coordinator, a site with its copy of the heads, and what the site has really done.

    The site's heads are its own; so only the coordinator's ledger may be lost together
    with it. The other way round, a coordinator's copy may be as old as it likes.
    """

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.pair = Pair(self.folder)
        self.heads = Heads(self.folder / "state")
        self.heads.write(self.pair.site.ledger)
        self.copies: dict[str, Path] = {}
        self.real: Counter[str] = Counter()
        self.highest: dict[str, Counter[str]] = {"site": Counter(), "coordinator": Counter()}
        self.number = 0

    def side(self, name: str) -> Side:
        return getattr(self.pair, name)  # type: ignore[no-any-return]

    def counts(self, name: str) -> Counter[str]:
        result = self.side(name).runs(self.pair.id)
        return Counter({run: dict(counts)[STEP] for run, counts in result.items()})

    def is_served(self) -> bool:
        """Whether the site would train: its own look at its past, then the exchange."""
        with suppress(LedgerError):
            self.heads.check(self.pair.site.ledger)
            return not self.pair.is_blocked()
        return False

    @rule(run=runs, lost=st.sampled_from(["", "request", "reply"]))
    def round(self, run: str, lost: str) -> None:
        if not self.is_served() or self.number > 8:
            return
        self.number += 1
        pair = self.pair
        pair.coordinator.spend(run, self.number, pair.id)
        if lost == "request":
            return
        try:
            pair.hear_at(pair.site, ROUND)
        except LedgerError:
            return
        self.check_real_steps()
        pair.site.spend(run, self.number, pair.id)
        self.heads.write(pair.site.ledger)
        self.real[run] += 2
        if not lost:
            pair.hear_at(pair.coordinator)

    @rule(name=sides)
    def back_up(self, name: str) -> None:
        self.copies[name] = self.side(name).back_up()

    @rule(name=sides)
    def restore(self, name: str) -> None:
        if name in self.copies:
            self.side(name).restore(self.copies[name])
            self.highest[name] = Counter()

    @rule()
    def run_that_spends_nothing(self) -> None:
        self.is_served()

    @rule(name=sides, stated=st.booleans())
    def rebase(self, name: str, stated: bool) -> None:
        side, other = self.pair.both if name == "coordinator" else self.pair.both[::-1]
        kept = None
        if name == "site":
            _, behind = self.heads.lost(side.ledger)
            kept = behind[NAME].runs if behind else None
        if stated:
            message = repair.statement(other.ledger, other.account, self.pair.id)
            list(repair.hear(side.ledger, [message]))
        repair.rebase(side.ledger, side.account, "an operator", kept)
        if kept is not None:
            self.heads.write(side.ledger)

    @invariant()
    def records_only_grow(self) -> None:
        if not hasattr(self, "pair"):
            return
        for name, highest in self.highest.items():
            now = self.counts(name)
            assert all(now[run] >= steps for run, steps in highest.items())
            self.highest[name] = now
            self.side(name).ledger.verify(self.side(name).account)

    def check_real_steps(self) -> None:
        """Who is served, and serves, has recorded all that was ever done."""
        for name in ("site", "coordinator"):
            now = self.counts(name)
            assert all(now[run] >= self.real[run] for run in RUNS), (name, now, self.real)

    def teardown(self) -> None:
        if not hasattr(self, "pair"):
            return
        for _ in range(3):  # whatever happened, three repairs of both sides end it
            for name in ("site", "coordinator"):
                self.rebase(name, stated=True)
        assert self.is_served()
        self.check_real_steps()
        for side in self.pair.both:
            side.ledger.database.close()
        shutil.rmtree(self.folder)


RepairMachine.TestCase.settings = settings(max_examples=6, stateful_step_count=10, deadline=None)
TestRepair = RepairMachine.TestCase
