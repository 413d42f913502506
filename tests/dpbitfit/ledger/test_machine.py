"""Any order of work, with a crash at any statement: nothing that was released is unrecorded."""

import functools
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dpbitfit.accounting.mechanism import Counts, Mechanism
from dpbitfit.errors import BudgetError, LedgerError, ProtocolError
from dpbitfit.ledger import Account, AccountName, Ledger, budget
from dpbitfit.ledger.outbox import Reply

MECHANISMS = (Mechanism(4.0, 0.01), Mechanism(8.0, 0.02))
NAMES = tuple(AccountName(site, "letters", "patient") for site in ("north", "south"))
RUNS = ("run-a", "run-b")
BUDGETS = (0.02, 0.1, 0.5, 8.0)

counts_of_a_round = st.dictionaries(st.sampled_from(MECHANISMS), st.integers(1, 4), min_size=1).map(
    lambda counts: tuple(sorted(counts.items()))
)
# A crash before the n-th statement, or right before or after the commit, or none.
crashes = st.one_of(st.none(), st.integers(0, 12), st.sampled_from(["before", "after"]))
accounts = st.sampled_from(range(len(NAMES)))
runs = st.sampled_from(RUNS)


class CrashError(Exception):
    """The process is gone."""


@contextmanager
def crash_at(ledger: Ledger, point: int | str | None) -> Iterator[None]:
    """Let the ledger's process die at one point of its next transaction."""
    engine = ledger.database._engine
    left = point if isinstance(point, int) else None

    def statement(_connection: sa.Connection, *_: Any) -> None:
        nonlocal left
        if left is not None:
            if left == 0:
                raise CrashError
            left -= 1

    def before_commit(_connection: sa.Connection) -> None:
        if point == "before":
            raise CrashError

    sa.event.listen(engine, "before_cursor_execute", statement)
    sa.event.listen(engine, "commit", before_commit)
    try:
        yield
        if point == "after":
            raise CrashError
    finally:
        sa.event.remove(engine, "before_cursor_execute", statement)
        sa.event.remove(engine, "commit", before_commit)


class LedgerMachine(RuleBasedStateMachine):
    """A site that trains and a model of what it has really released."""

    @initialize()
    def open(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.url = str(self.folder / "ledger.sqlite")
        self.ledger = Ledger(self.url, create=True)
        self.accounts = [self.ledger.open_account(name, 1e-5, 8.0) for name in NAMES]
        self.allotted: dict[tuple[int, str], Counts] = {}
        self.released: Counter[tuple[int, str, Mechanism]] = Counter()
        self.bytes: dict[str, bytes] = {}  # by key, what was ever sent
        self.newest: dict[tuple[int, str], str] = {}
        self.keys: dict[str, tuple[int, str, Counts]] = {}  # acknowledged as reserved
        self.untouched: set[str] = set()
        self.serial = 0

    def attempt(self, point: int | str | None, work: Callable[[], Any]) -> bool:
        """Do one transaction; True where the ledger acknowledged it."""
        try:
            with crash_at(self.ledger, point):
                work()
        except CrashError:
            self.ledger.database.close()
            self.ledger = Ledger(self.url)
            return False
        return True

    @rule(of=accounts, run=runs, counts=counts_of_a_round, times=st.integers(1, 4), point=crashes)
    def allot(self, of: int, run: str, counts: Counts, times: int, point: int | str | None) -> None:
        plan = tuple((mechanism, steps * times) for mechanism, steps in counts)
        before = self.plan_of(of, run)

        def work() -> None:
            self.ledger.allot(NAMES[of], run, str(plan), plan)

        try:
            self.attempt(point, work)
        except ProtocolError:
            assert before not in ((), plan)
        except BudgetError:
            assert before == ()
            assert self.plan_of(of, run) == ()
        else:
            assert before in ((), plan) or point is not None
            assert self.plan_of(of, run) in (before, plan)
        assert not before or self.plan_of(of, run) == before

    @rule(run=runs, counts=counts_of_a_round, both=st.booleans(), of=accounts, point=crashes)
    def reserve(
        self, run: str, counts: Counts, both: bool, of: int, point: int | str | None
    ) -> None:
        chosen = range(len(NAMES)) if both else (of,)
        self.serial += 1
        keys = {self.accounts[one].id: f"{run}-{one}-{self.serial}" for one in chosen}
        fits = all(
            steps <= self.left(one, run).get(mechanism, 0)
            for one in chosen
            for mechanism, steps in counts
        )
        try:
            done = self.attempt(point, lambda: self.ledger.reserve(run, self.serial, keys, counts))
        except BudgetError:
            assert not fits
            return
        assert fits or not done
        if done:
            assert all(self.is_within_its_budget(one) for one in chosen)
        stored = {one.key for one in self.ledger.reservations(run)}
        assert stored.issuperset(keys.values()) if done else True
        # Whether the crash came before or after the commit, it is all of them or none.
        assert len(stored.intersection(keys.values())) in (0, len(keys))
        for one, key in zip(chosen, keys.values(), strict=True):
            if done:
                self.keys[key] = (one, run, counts)

    @rule(data=st.data(), point=crashes, lost=st.booleans())
    def train_and_commit(self, data: st.DataObject, point: int | str | None, lost: bool) -> None:
        ready = sorted(key for key in self.keys if key not in self.untouched)
        if not ready:
            return
        key = data.draw(st.sampled_from(ready))
        of, run, counts = self.keys[key]
        kept = self.ledger.reply(key)
        if kept is not None:
            # Asked again: the same bytes, or none when a later answer has replaced them.
            assert kept.payload == (self.bytes[key] if self.newest[of, run] == key else None)
            return
        if self.ledger.round_of(run, int(key.rpartition("-")[2]))[0].state != "reserved":
            return
        # The records are touched now, whatever happens to the process afterwards.
        self.released.update({(of, run, mechanism): steps for mechanism, steps in counts})
        self.untouched.discard(key)
        self.serial += 1
        payload = f"noise {self.serial}".encode()
        if lost:
            self.attempt(point, lambda: self.ledger.commit({key: "failed"}))
            self.keys.pop(key)
            return
        reply = Reply(key, "asked", payload)
        self.attempt(point, lambda: self.ledger.commit({key: "replied"}, reply))
        stored = self.ledger.reply(key)
        if stored is None:  # it died before the outbox had it: spent, and never sent
            self.keys.pop(key)
        else:
            assert stored.payload == payload
            self.bytes[key] = payload
            self.newest[of, run] = key

    @rule(data=st.data(), point=crashes)
    def release(self, data: st.DataObject, point: int | str | None) -> None:
        open_keys = sorted(key for key in self.keys if key not in self.bytes)
        if not open_keys:
            return
        key = data.draw(st.sampled_from(open_keys))
        try:
            self.attempt(point, lambda: self.ledger.release(key, "untouched"))
        except LedgerError:
            assert key not in {one.key for one in self.ledger.reservations()}
        self.keys.pop(key)  # its site will not train it

    @rule(of=accounts, run=runs, point=crashes)
    def give_up_the_rest(self, of: int, run: str, point: int | str | None) -> None:
        if self.attempt(point, lambda: self.ledger.void_rest(NAMES[of], run)):
            assert not any(self.left(of, run).values())

    @rule(of=accounts, to=st.one_of(st.none(), st.sampled_from(BUDGETS)), point=crashes)
    def change_the_budget(self, of: int, to: float | None, point: int | str | None) -> None:
        """None: to exactly what is approved, which takes nothing back."""
        before = [self.left(of, run) for run in RUNS]
        account, approved = self.committed(of)
        wanted = to or max(approved, 1e-6)
        work = functools.partial(self.ledger.set_budget, NAMES[of], wanted, "the board")
        done = self.attempt(point, work)
        after = [self.left(of, run) for run in RUNS]
        if self.committed(of)[0].budget != wanted:
            assert not done
            assert after == before
        elif approved <= wanted:
            assert after == before
        elif account.budget != wanted:
            assert not any(steps for left in after for steps in left.values())

    @rule(point=crashes)
    def settle_after_a_restart(self, point: int | str | None) -> None:
        self.ledger.database.close()
        self.ledger = Ledger(self.url)
        if self.attempt(point, lambda: self.ledger.settle("unknown")):
            assert self.ledger.reservations() == []
        self.keys = {key: value for key, value in self.keys.items() if key in self.bytes}

    def committed(self, of: int) -> tuple[Account, float]:
        """The account now, and epsilon of all that is approved for it."""
        account = self.ledger.account(NAMES[of])
        held = self.ledger.allotments([account.id])[account.id]
        return account, budget.committed(account, held, account.delta, budget.tight).epsilon

    def is_within_its_budget(self, of: int) -> bool:
        account, approved = self.committed(of)
        return approved <= account.budget

    @invariant()
    def adds_up(self) -> None:
        recorded: Counter[tuple[int, str, Mechanism]] = Counter()
        for of, account in enumerate(self.accounts):
            self.ledger.verify(account)
            for (run, mechanism), held in self.ledger.allotments([account.id])[account.id].items():
                recorded[of, run, mechanism] = held.reserved + held.committed
                assert recorded[of, run, mechanism] + held.voided <= held.allotted
                allowed = dict(self.allotted.setdefault((of, run), self.plan_of(of, run)))
                assert held.allotted == allowed[mechanism]
        assert recorded >= self.released
        for (of, run), key in self.newest.items():
            newest = self.ledger.last_reply(self.accounts[of], run)
            assert newest is not None
            assert (newest.key, newest.payload) == (key, self.bytes[key])

    def plan_of(self, of: int, run: str) -> Counts:
        result = self.ledger.allotments([self.accounts[of].id])[self.accounts[of].id]
        return tuple(
            sorted((m, held.allotted) for (name, m), held in result.items() if name == run)
        )

    def left(self, of: int, run: str) -> dict[Mechanism, int]:
        result = self.ledger.allotments([self.accounts[of].id])[self.accounts[of].id]
        return {
            mechanism: held.allotted - held.reserved - held.committed - held.voided
            for (name, mechanism), held in result.items()
            if name == run
        }

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            self.ledger.database.close()
            shutil.rmtree(self.folder)


LedgerMachine.TestCase.settings = settings(
    deadline=None, max_examples=25, stateful_step_count=30, print_blob=True
)
TestLedger = LedgerMachine.TestCase
