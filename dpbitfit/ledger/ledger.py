"""Keeping the ledger: every change is one durable transaction of events and counts.

    open -> allot a plan -> reserve a round -> commit it (or release it, untouched)

What was reserved and has no known end is spent. Whole numbers decide here: what
a plan costs was bounded when it was approved (``budget.approve``).
"""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import chain

import sqlalchemy as sa

from dpbitfit.accounting.mechanism import Counts, merged
from dpbitfit.errors import InputError, LedgerError, ProtocolError
from dpbitfit.ledger import budget, identity, journal, queries, rebasing, rounds, schema, steps
from dpbitfit.ledger.account import Account, AccountName, check_budget, check_name
from dpbitfit.ledger.canonical import mechanism_to_text, number_to_text
from dpbitfit.ledger.database import WAIT_SECONDS
from dpbitfit.ledger.events import GENESIS, AccountOpened, BudgetSet, PlanApproved
from dpbitfit.ledger.outbox import Reply
from dpbitfit.ledger.queries import Reservation
from dpbitfit.ledger.reader import Reader
from dpbitfit.protocol.signing import Signer


class Ledger(Reader):
    """A ledger that is written to, and signs; neither where it was opened ``readonly``.

    See ``Database`` for the arguments and the errors. Raises LedgerError also where
    the key that would sign is not that of the ledger's ``id``.
    """

    def __init__(
        self,
        url: str,
        create: bool = False,
        readonly: bool = False,
        wait_seconds: float = WAIT_SECONDS,
    ) -> None:
        super().__init__(url, create, readonly, wait_seconds)
        with self.database.closed_on_failure():
            self._signer = None if readonly else identity.read_signer(self.database, self.id)

    @property
    def signer(self) -> Signer:
        """The key that signs for this ledger; LedgerError where it was opened ``readonly``."""
        if self._signer is None:
            raise LedgerError(f"{self.database}: opened to be read, it signs nothing")
        return self._signer

    def claim(self, wait_seconds: float = 0) -> AbstractContextManager[None]:
        """Be the only process that runs rounds on this ledger; see ``Database.claim``."""
        return self.database.claim(wait_seconds)

    def open_account(
        self,
        name: AccountName,
        delta: float,
        epsilon: float,
        spent: Mapping[str, Counts] | None = None,
        reason: str = "",
    ) -> Account:
        """The account of that name, verified; made with this budget where there is none.

        A new one may begin with what runs have ``spent`` of it elsewhere, for a ``reason``.

        Raises InputError for a name, delta or budget that cannot be, or another
        delta than the account's; LedgerError where its events do not add up.
        """
        check_name(name)
        with self.database.write() as connection:
            if queries.find_account(connection, name) is None:
                check_budget(delta, epsilon)
                numbers = {"delta": number_to_text(delta), "budget": number_to_text(epsilon)}
                first = {"filter_order": 0, "sequence": 0, "head": GENESIS}
                values = {**name._asdict(), **numbers, **first}
                connection.execute(sa.insert(schema.account).values(values))
                account = queries.locked(connection, name)
                journal.append(connection, [(account, AccountOpened(delta, epsilon))])
                if spent:
                    rebasing.rebase(connection, name, spent, "", reason)
        account = self.account(name)
        self.verify(account)
        if account.delta != delta:
            raise InputError(
                f"account {name} keeps its figures at delta {account.delta:g}; use that delta"
            )
        return account

    def set_budget(self, name: AccountName, epsilon: float, reason: str) -> Account:
        """Another budget for the account, at its delta; the reason goes into the event.

        Where less than was approved is allowed now, what is left of every approval is
        taken back in the same transaction; a budget raised again brings nothing back.
        """
        with self.database.read() as connection:
            known = queries.find_account(connection, name)
            if known is not None:
                check_budget(known.delta, epsilon)
                steps.excess(connection, replace(known, budget=epsilon))
        with self.database.write() as connection:
            account = queries.locked(connection, name)
            check_budget(account.delta, epsilon)
            queries.update_account(connection, account.id, budget=number_to_text(epsilon))
            journal.append(connection, [(account, BudgetSet(account.delta, epsilon, reason))])
            over = steps.excess(connection, queries.locked(connection, name))
            steps.take_back(connection, name, over, reason)
        return self.account(name)

    def enforce(
        self, name: AccountName, reason: str, coordinator: str = "", share: float = math.inf
    ) -> Counts:
        """Take back what is left of approvals that pass the budget, or a coordinator's share.

        Returns those steps: none where everything approved still fits.
        """
        with self.database.read() as connection:
            known = queries.find_account(connection, name)
            if known is None or not steps.excess(connection, known, coordinator, share):
                return ()
        with self.database.write() as connection:
            account = queries.locked(connection, name)
            over = steps.excess(connection, account, coordinator, share)
            steps.take_back(connection, name, over, reason)
        return merged(chain.from_iterable(over.values()))

    def allot(
        self,
        name: AccountName,
        run: str,
        plan: str,
        counts: Counts,
        coordinator: str = "",
        share: float = math.inf,
    ) -> budget.Approval | None:
        """Approve a run's plan: the whole composition; None where it was approved before.

        ``share`` is the epsilon that all plans of this coordinator together may cost.
        Raises BudgetError where it does not fit, ProtocolError where the run was
        approved with another plan.
        """
        with self.database.read() as connection:
            known = queries.find_account(connection, name)
            if known is not None and queries.plan_of(connection, known.id, run) is None:
                # Accounting takes seconds: it is done, and remembered, before others must wait.
                allotments = queries.allotments_of(connection, [known.id])[known.id]
                budget.approve(known, allotments, counts, coordinator, share)
        with self.database.write() as connection:
            account = queries.locked(connection, name)
            allotments = queries.allotments_of(connection, [account.id])[account.id]
            before = queries.plan_of(connection, account.id, run)
            if before is not None:
                if before != plan:
                    raise ProtocolError(f"run {run} was approved with another plan")
                return None
            approval = budget.approve(account, allotments, counts, coordinator, share)
            values = [
                {
                    "account_id": account.id,
                    "run": run,
                    "plan": plan,
                    "coordinator": coordinator,
                    **mechanism_to_text(mechanism),
                    "adaptive": int(approval.adaptive),
                    "allotted": number,
                }
                for mechanism, number in counts
            ]
            connection.execute(sa.insert(schema.allotment), values)
            queries.update_account(connection, account.id, filter_order=approval.order)
            content = PlanApproved(
                run, plan, coordinator, counts, approval.adaptive, approval.order
            )
            journal.append(connection, [(account, content)], coordinator)
        return approval

    def reserve(self, run: str, number: int, keys: Mapping[int, str], counts: Counts) -> None:
        """Reserve one round of a run for many accounts: for all of them or for none.

        ``keys`` holds each account's key by account id. Raises BudgetError,
        naming one account, where an allotment does not hold ``counts`` more.
        """
        with self.database.write() as connection:
            rounds.reserve(connection, run, number, keys, counts)

    def commit(self, outcomes: Mapping[str, str], reply: Reply | None = None) -> None:
        """Settle reserved rounds as spent, by key with why, and store a site's reply with it.

        What is committed already stays as it is. Raises LedgerError for a key
        that was never reserved, or was released.
        """
        with self.database.write() as connection:
            rounds.commit(connection, outcomes, reply)

    def release(self, key: str, proof: str) -> None:
        """Give a reserved round's steps back: its site has signed that it touched no data.

        ``proof`` is the site's signature, verified by the caller. Raises
        LedgerError for a round that is not reserved.
        """
        with self.database.write() as connection:
            rounds.release(connection, key, proof)

    def void_key(
        self, name: AccountName, run: str, number: int, key: str, coordinator: str = ""
    ) -> bool:
        """Promise ``coordinator`` that this key will never be trained.

        False where it was reserved before.
        """
        with self.database.write() as connection:
            return rounds.void_key(connection, name, run, number, key, coordinator)

    def void_rest(self, name: AccountName, run: str) -> Counts:
        """Give up what a run was allotted and has not reserved; returns those steps."""
        with self.database.write() as connection:
            account = queries.locked(connection, name)
            allotments = queries.allotments_of(connection, [account.id])[account.id]
            rest = budget.remaining(allotments).get(run, ())
            if rest:
                steps.give_up(connection, account, run, rest)
        return rest

    def rebase(
        self, name: AccountName, runs: Mapping[str, Counts], coordinator: str, reason: str
    ) -> None:
        """Add steps to runs of ``coordinator`` that this ledger does not know of: upwards only.

        They are recorded as spent, an event for each run, even where that passes the
        budget, and then what is left of every approval is taken back; where there are
        none, one event records that an operator has looked.
        Raises LedgerError where a run is another coordinator's.
        """
        with self.database.write() as connection:
            rebasing.rebase(connection, name, runs, coordinator, reason)

    def settle(self, outcome: str, account_id: int | None = None) -> list[Reservation]:
        """Commit what is still reserved, of one account or of all; returns what that was.

        For a process that has claimed the ledger: no other is at work on it.
        """
        left = [
            reservation
            for reservation in self.reservations()
            if account_id in (None, reservation.account_id)
        ]
        if left:
            self.commit({reservation.key: outcome for reservation in left})
        return left
