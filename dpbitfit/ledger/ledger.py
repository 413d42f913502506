"""Keeping the ledger: every change is one durable transaction of events and counts.

    open -> allot a plan -> reserve a round -> commit it (or release it, untouched)

What was reserved and has no known end is spent. Whole numbers decide here: what
a plan costs was bounded when it was approved (``budget.approve``).
"""

import math
from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain, groupby
from typing import Any

import sqlalchemy as sa

from dpbitfit.accounting.composition import Counts, check_delta, checked, merged
from dpbitfit.accounting.renyi import filter_order
from dpbitfit.errors import BudgetError, InputError, LedgerError, ProtocolError
from dpbitfit.ledger import budget, identity, outbox, queries, schema
from dpbitfit.ledger.budget import Account
from dpbitfit.ledger.database import WAIT_SECONDS
from dpbitfit.ledger.events import (
    GENESIS,
    AccountName,
    Held,
    canonical,
    counts_from_text,
    counts_to_text,
    make,
)
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
        self._signer = None if readonly else identity.read_signer(self.database, self.id)

    @property
    def signer(self) -> Signer:
        """Who signs in this ledger's name; LedgerError where it was opened ``readonly``."""
        if self._signer is None:
            raise LedgerError(f"{self.database}: opened to be read, it signs nothing")
        return self._signer

    def claim(self, wait_seconds: float = 0) -> AbstractContextManager[None]:
        """Be the only process that runs rounds on this ledger; see ``Database.claim``."""
        return self.database.claim(wait_seconds)

    def open_account(self, name: AccountName, delta: float, epsilon: float) -> Account:
        """The account of that name, verified; made with this budget where there is none.

        Raises InputError for a name, delta or budget that cannot be, or another
        delta than the account's; LedgerError where its events do not add up.
        """
        check_name(name)
        with self.database.write() as connection:
            found = queries.find_account(connection, name)
            if found is None:
                figures = budget_facts(delta, epsilon)
                row = {**name._asdict(), **figures, "filter_order": 0}
                values = {**row, "sequence": 0, "head": GENESIS}
                connection.execute(sa.insert(schema.account).values(values))
                found = queries.find_account(connection, name)
                assert found is not None
                self._append(connection, [found], "open", {found.id: figures})
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
                budget_facts(known.delta, epsilon)
                self._excess(connection, replace(known, budget=epsilon))
        with self.database.write() as connection:
            account = self._locked(connection, name)
            facts = budget_facts(account.delta, epsilon)
            queries.update_account(connection, account.id, budget=facts["budget"])
            self._append(connection, [account], "budget", {account.id: {**facts, "reason": reason}})
            over = self._excess(connection, self._locked(connection, name))
            self._take_back(connection, name, over, reason)
        return self.account(name)

    def enforce(
        self, name: AccountName, reason: str, coordinator: str = "", share: float = math.inf
    ) -> Counts:
        """Take back what is left of approvals that pass the budget, or a coordinator's share.

        Returns those steps: none where everything approved still fits.
        """
        with self.database.read() as connection:
            known = queries.find_account(connection, name)
            if known is None or not self._excess(connection, known, coordinator, share):
                return ()
        with self.database.write() as connection:
            over = self._excess(connection, self._locked(connection, name), coordinator, share)
            self._take_back(connection, name, over, reason)
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
        """Approve a run's plan: its whole bag of steps; None where it was approved before.

        ``share`` is the epsilon that all plans of this coordinator together may cost.
        Raises BudgetError where it does not fit, ProtocolError where the run was
        approved with another plan.
        """
        with self.database.read() as connection:
            account = queries.find_account(connection, name)
            before = queries.plan_of(connection, account.id, run) if account else None
            if account is not None and before is None:
                # Accounting takes seconds: it is done, and remembered, before others must wait.
                holdings = queries.holdings_of(connection, [account.id])[account.id]
                budget.approve(account, holdings, counts, coordinator, share)
        with self.database.write() as connection:
            account = self._locked(connection, name)
            holdings = queries.holdings_of(connection, [account.id])[account.id]
            before = queries.plan_of(connection, account.id, run)
            if before is not None:
                if before != plan:
                    raise ProtocolError(f"run {run} was approved with another plan")
                return None
            approval = budget.approve(account, holdings, counts, coordinator, share)
            values = [
                {
                    "account_id": account.id,
                    "run": run,
                    "plan": plan,
                    "coordinator": coordinator,
                    **queries.mechanism_text(mechanism),
                    "adaptive": int(approval.adaptive),
                    "allotted": steps,
                }
                for mechanism, steps in counts
            ]
            connection.execute(sa.insert(schema.allotment), values)
            queries.update_account(connection, account.id, filter_order=approval.order)
            facts = {
                "run": run,
                "plan": plan,
                "coordinator": coordinator,
                "counts": queries.triples(counts),
                "adaptive": approval.adaptive,
                "order": approval.order,
            }
            self._append(connection, [account], "allot", {account.id: facts}, coordinator)
        return approval

    def reserve(self, run: str, number: int, keys: Mapping[int, str], counts: Counts) -> None:
        """Reserve one round of a run for many accounts: for all of them or for none.

        ``keys`` holds each account's key by account id. Raises BudgetError,
        naming one account, where an allotment does not hold so many more steps.
        """
        text = counts_to_text(counts)
        with self.database.write() as connection:
            accounts = queries.lock(connection, keys)
            self._move(connection, run, keys, counts, reserved=1)
            row = {"run": run, "round": number, "counts": text, "state": "reserved", "outcome": ""}
            made = [{"key": key, "account_id": of, **row} for of, key in keys.items()]
            connection.execute(sa.insert(schema.reservation), made)
            written = queries.triples(counts)
            facts = {
                of: {"run": run, "round": number, "key": key, "counts": written}
                for of, key in keys.items()
            }
            owners = queries.owners_of(connection, keys, [run])
            causes = {of: owner for (of, _), owner in owners.items()}
            self._append(connection, accounts, "reserve", facts, causes)

    def commit(self, outcomes: Mapping[str, str], reply: Reply | None = None) -> None:
        """Settle reserved rounds as spent, with why, and keep a site's reply with it.

        What is committed already stays as it is. Raises LedgerError for a key
        that was never reserved, or was released.
        """
        with self.database.write() as connection:
            found = queries.reservations_of(connection, schema.reservation.c.key, outcomes)
            missing = outcomes.keys() - {one.key for one in found}
            wrong = [one.key for one in found if one.state in ("released", "void")]
            if missing or wrong:
                raise LedgerError(f"round {min([*missing, *wrong])} was not reserved")
            fresh = [one for one in found if one.state == "reserved"]
            self._settle(connection, fresh, "commit", outcomes)
            if reply is not None:
                if reply.key not in {one.key for one in fresh}:
                    raise LedgerError(f"round {reply.key} was settled before its reply")
                outbox.store(connection, reply)

    def release(self, key: str, proof: str) -> None:
        """Give a reserved round's steps back: its site has signed that it touched no data.

        ``proof`` is the site's signature, verified by the caller. Raises
        LedgerError for a round that is not reserved.
        """
        with self.database.write() as connection:
            found = queries.reservations_of(connection, schema.reservation.c.key, [key])
            if not found or found[0].state != "reserved":
                raise LedgerError(f"round {key} is not reserved")
            self._settle(connection, found, "release", {key: "untouched"}, proof=proof)

    def void_key(
        self, name: AccountName, run: str, number: int, key: str, coordinator: str = ""
    ) -> bool:
        """Promise ``coordinator`` that this key will never be trained.

        False where it was reserved before.
        """
        with self.database.write() as connection:
            account = self._locked(connection, name)
            found = queries.reservations_of(connection, schema.reservation.c.key, [key])
            if found:
                return found[0].state == "void" and found[0].account_id == account.id
            row = {"run": run, "round": number, "counts": "[]", "state": "void", "outcome": ""}
            connection.execute(
                sa.insert(schema.reservation).values(key=key, account_id=account.id, **row)
            )
            facts = {"run": run, "round": number, "key": key, "coordinator": coordinator}
            self._append(connection, [account], "void", {account.id: facts}, coordinator)
        return True

    def void_rest(self, name: AccountName, run: str) -> Counts:
        """Give up what a run was allotted and has not reserved; returns those steps."""
        with self.database.write() as connection:
            account = self._locked(connection, name)
            rest = merged(
                (mechanism, held.left)
                for (of, mechanism), held in queries.holdings_of(connection, [account.id])[
                    account.id
                ].items()
                if of == run
            )
            if rest:
                self._give_up(connection, account, run, rest)
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
            for run, counts in runs.items() or {"": ()}.items():
                account = self._locked(connection, name)
                order = account.filter_order or (
                    filter_order(dict(counts), account.delta, account.budget) if counts else 0
                )
                queries.update_account(connection, account.id, filter_order=order)
                facts = {
                    "run": run,
                    "coordinator": coordinator,
                    "counts": queries.triples(counts),
                    "allotted": queries.triples(
                        self._raise(connection, account, run, counts, coordinator)
                    ),
                    "reason": reason,
                    "order": order,
                }
                self._append(connection, [account], "rebase", {account.id: facts}, coordinator)
            over = self._excess(connection, self._locked(connection, name))
            self._take_back(connection, name, over, reason)

    def _raise(
        self,
        connection: sa.Connection,
        account: Account,
        run: str,
        counts: Counts,
        coordinator: str,
    ) -> Counts:
        """Commit steps of a run; returns by how many more than were left of its allotment."""
        holdings = queries.holdings_of(connection, [account.id])[account.id]
        if any(of == run and held.coordinator != coordinator for (of, _), held in holdings.items()):
            raise LedgerError(f"account {account.name}: run {run} is another coordinator's")
        table = schema.allotment
        added = {}
        for mechanism, steps in counts:
            held = holdings.get((run, mechanism), Held())
            more = max(0, steps - held.left)
            at = {"account_id": account.id, "run": run, **queries.mechanism_text(mechanism)}
            if (run, mechanism) in holdings:
                numbers = {"allotted": held.allotted + more, "committed": held.committed + steps}
                change = sa.update(table).where(*queries.equal(table, at))
                connection.execute(change.values(**numbers))
            else:
                new = {"plan": "", "coordinator": coordinator, "adaptive": 1}
                numbers = {"allotted": more, "committed": steps}
                connection.execute(sa.insert(table).values(**at, **new, **numbers))
            added[mechanism] = more
        return checked(added)

    def settle(self, outcome: str, account_id: int | None = None) -> list[Reservation]:
        """Commit what is still reserved, of one account or of all; returns what that was.

        For a process that has claimed the ledger: nobody else is at work on it.
        """
        left = [r for r in self.reservations() if account_id in (None, r.account_id)]
        if left:
            self.commit({one.key: outcome for one in left})
        return left

    def _locked(self, connection: sa.Connection, name: AccountName) -> Account:
        found = queries.find_account(connection, name, lock=True)
        if found is None:
            raise InputError(f"there is no account {name}")
        return found

    def _excess(
        self,
        connection: sa.Connection,
        account: Account,
        coordinator: str = "",
        share: float = math.inf,
    ) -> dict[str, Counts]:
        """``budget.excess``; seconds when new, so it is asked once before others must wait."""
        holdings = queries.holdings_of(connection, [account.id])[account.id]
        return budget.excess(account, holdings, coordinator, share)

    def _take_back(
        self, connection: sa.Connection, name: AccountName, over: Mapping[str, Counts], reason: str
    ) -> None:
        for run, rest in over.items():
            self._give_up(connection, self._locked(connection, name), run, rest, reason=reason)

    def _give_up(
        self, connection: sa.Connection, account: Account, run: str, rest: Counts, **facts: str
    ) -> None:
        self._move(connection, run, [account.id], rest, voided=1)
        told = {"run": run, "counts": queries.triples(rest), **facts}
        self._append(connection, [account], "void", {account.id: told})

    def _settle(
        self,
        connection: sa.Connection,
        reservations: Iterable[Reservation],
        kind: str,
        outcomes: Mapping[str, str],
        **facts: str,
    ) -> None:
        """Settle reservations one way, each with its outcome."""
        state, moved = ("committed", 1) if kind == "commit" else ("released", 0)

        def alike(one: Reservation) -> tuple[str, str, str]:
            return one.run, counts_to_text(one.counts), outcomes[one.key]

        # An account has one reservation a group; a second of the same account waits its turn.
        for turn in queries.turns(reservations):
            accounts = queries.lock(connection, [one.account_id for one in turn])
            for (run, text, outcome), group in groupby(sorted(turn, key=alike), alike):
                members = list(group)
                ids = [one.account_id for one in members]
                self._move(
                    connection, run, ids, counts_from_text(text), reserved=-1, committed=moved
                )
                table = schema.reservation
                change = sa.update(table).values(state=state, outcome=outcome)
                for keys in queries.chunks([one.key for one in members]):
                    connection.execute(change.where(table.c.key.in_(keys)))
            told = {
                one.account_id: {"key": one.key, "outcome": outcomes[one.key], **facts}
                for one in turn
            }
            runs = {one.run for one in turn}
            owners = queries.owners_of(connection, told, runs)
            causes = {one.account_id: owners[one.account_id, one.run] for one in turn}
            self._append(connection, accounts, kind, told, causes)

    def _move(
        self,
        connection: sa.Connection,
        run: str,
        ids: Collection[int],
        counts: Counts,
        **signs: int,
    ) -> None:
        """Add steps to columns of a run's allotments; BudgetError where one would overflow."""
        table = schema.allotment
        for mechanism, steps in counts:
            more = steps * sum(signs.values())
            here = queries.equal(table, {"run": run, **queries.mechanism_text(mechanism)})
            used = table.c.reserved + table.c.committed + table.c.voided
            new = {name: table.c[name] + sign * steps for name, sign in signs.items()}
            for chunk in queries.chunks(ids):
                fits = (*here, table.c.account_id.in_(chunk), used + more <= table.c.allotted)
                able = connection.scalars(sa.select(table.c.account_id).where(*fits)).all()
                short = set(chunk) - set(able)
                if short:
                    account = queries.accounts_of(connection, [min(short)])[0]
                    raise BudgetError(
                        f"account {account.name}: run {run} has fewer than {steps} steps left"
                    )
                change = sa.update(table).where(*here, table.c.account_id.in_(chunk))
                connection.execute(change.values(**new))

    def _append(
        self,
        connection: sa.Connection,
        accounts: Iterable[Account],
        kind: str,
        facts: Mapping[int, Mapping[str, Any]],
        cause: Mapping[int, str] | str = "",
    ) -> None:
        """Add one event to each account; ``cause`` is the coordinator that asked for it."""
        at = datetime.now(UTC).isoformat(timespec="seconds")
        made = [
            (one.id, make(one.name, one.sequence + 1, one.head, kind, at, **facts[one.id]))
            for one in accounts
        ]
        if not made:
            return
        events = [
            {
                "account_id": of,
                **vars(event),
                "coordinator": cause if isinstance(cause, str) else cause[of],
            }
            for of, event in made
        ]
        connection.execute(sa.insert(schema.event), events)
        table = schema.account
        change = sa.update(table).where(table.c.id == sa.bindparam("of"))
        columns: dict[str, Any] = {"sequence": sa.bindparam("last"), "head": sa.bindparam("top")}
        heads = [{"of": of, "last": event.sequence, "top": event.hash} for of, event in made]
        connection.execute(change.values(**columns), heads)


def check_name(name: AccountName) -> None:
    for part, text in name._asdict().items():
        if not 0 < len(text) <= 200 or not text.isprintable() or "/" in text:
            raise InputError(
                f"an account's {part} is 1 to 200 printable characters without '/', not {text!r}"
            )


def budget_facts(delta: float, epsilon: float) -> dict[str, str]:
    check_delta(delta)
    if not (math.isfinite(epsilon) and 0 < epsilon <= 1e4):
        raise InputError(f"a budget is an epsilon above 0, at most 10,000, not {epsilon!r}")
    facts = {"delta": canonical(delta), "budget": canonical(epsilon)}
    if max(map(len, facts.values())) > schema.NUMBER_LENGTH:
        raise InputError(f"epsilon {epsilon!r} at delta {delta!r} is too small to be kept")
    return facts
