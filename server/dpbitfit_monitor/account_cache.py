"""What is remembered of a ledger's accounts, so that only what is new is read."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from dpbitfit.errors import DpbitfitError, LedgerError
from dpbitfit.ledger import Account, AccountName, queries, schema, status
from dpbitfit.ledger.budget import Holdings
from dpbitfit.ledger.ledger import budget_facts
from dpbitfit.ledger.status import BudgetStatus
from dpbitfit_monitor.activity import Activity, catch_up
from dpbitfit_monitor.bounds import Bounds


@dataclass
class Kept:
    """An account as its ``row`` was; ``problem`` says why the rest of it is missing."""

    row: tuple[Any, ...]
    name: AccountName
    account: Account | None = None
    trace: Activity | None = None
    holdings: Holdings | None = None
    standing: BudgetStatus | None = None  # remembered once it is exact
    problem: str = ""


class AccountCache:
    """Accounts by their number in the database; ``bounds`` takes over figures found there."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._kept: dict[int, Kept] = {}

    def refresh(self, connection: sa.Connection) -> dict[int, Kept]:
        """Every account as the ledger has it now."""
        # Filled again at the end: a look that fails half-way leaves nothing half-read.
        before, self._kept = self._kept, {}
        kept: dict[int, Kept] = {}
        changed: dict[int, Kept] = {}
        for row in connection.execute(sa.select(schema.account)):
            one = before.get(row.id)
            if one is None or one.row != tuple(row) or one.problem:
                one = changed[row.id] = _fresh(row)
            kept[row.id] = one
        able = {of: one.account for of, one in changed.items() if one.account is not None}
        older = {of: before[of].trace for of in able if of in before}
        traces, broken = catch_up(connection, able, older)
        holdings, unread = _holdings(connection, traces.keys())
        for of, problem in (broken | unread).items():
            kept[of].problem = problem
        for of in holdings:
            kept[of].trace, kept[of].holdings = traces[of], holdings[of]
        self._take_over_figures(connection, (changed[of] for of in changed.keys() - before.keys()))
        self._kept = kept
        return kept

    def _take_over_figures(self, connection: sa.Connection, new: Iterable[Kept]) -> None:
        wanted = {
            (bag, one.account.delta)
            for one in new
            if one.account is not None and one.holdings is not None
            for bag in status.fixed_bags(one.holdings)
        }
        self._bounds.keep(status.kept_figures(connection, wanted).items())


def _fresh(row: Any) -> Kept:
    one = Kept(tuple(row), AccountName(row.site, row.dataset, row.unit))
    try:
        account = queries.to_account(row)
        budget_facts(account.delta, account.budget)
        one.account = account
    except DpbitfitError as error:
        one.problem = str(error)
    return one


def _holdings(
    connection: sa.Connection, ids: Collection[int]
) -> tuple[dict[int, Holdings], dict[int, str]]:
    """What each account holds; and why not, where a row of it cannot be read."""
    try:
        return dict(queries.holdings_of(connection, ids)), {}
    except LedgerError:
        found: dict[int, Holdings] = {}
        unread: dict[int, str] = {}
        for of in ids:
            try:
                found[of] = queries.holdings_of(connection, [of])[of]
            except LedgerError as error:
                unread[of] = str(error)
        return found, unread
