"""Moving steps between the columns of runs' allotments, inside a transaction of the ledger."""

import math
from collections.abc import Collection, Mapping

import sqlalchemy as sa

from dpbitfit.accounting.mechanism import Counts
from dpbitfit.errors import BudgetError
from dpbitfit.ledger import budget, journal, queries, schema
from dpbitfit.ledger.account import Account, AccountName
from dpbitfit.ledger.canonical import mechanism_to_text
from dpbitfit.ledger.events import StepsVoided


def move(
    connection: sa.Connection, run: str, ids: Collection[int], counts: Counts, **signs: int
) -> None:
    """Add steps to columns of a run's allotments, ``signs`` times each.

    Raises BudgetError, naming one account, where its allotment does not hold them.
    """
    table = schema.allotment
    for mechanism, steps in counts:
        more = steps * sum(signs.values())
        here = queries.equal(table, {"run": run, **mechanism_to_text(mechanism)})
        used = table.c.reserved + table.c.committed + table.c.voided
        values = {name: table.c[name] + sign * steps for name, sign in signs.items()}
        for chunk in queries.chunks(ids):
            fits = (*here, table.c.account_id.in_(chunk), used + more <= table.c.allotted)
            able = connection.scalars(sa.select(table.c.account_id).where(*fits)).all()
            if short := set(chunk) - set(able):
                account = queries.accounts_of(connection, [min(short)])[0]
                raise BudgetError(
                    f"account {account.name}: run {run} has fewer than {steps} steps left"
                )
            change = sa.update(table).where(*here, table.c.account_id.in_(chunk))
            connection.execute(change.values(**values))


def give_up(
    connection: sa.Connection, account: Account, run: str, rest: Counts, reason: str | None = None
) -> None:
    """Give up steps of a run that are not reserved; ``reason`` where an operator does it."""
    move(connection, run, [account.id], rest, voided=1)
    journal.append(connection, [(account, StepsVoided(run, rest, reason))])


def excess(
    connection: sa.Connection, account: Account, coordinator: str = "", share: float = math.inf
) -> dict[str, Counts]:
    """``budget.excess``; seconds where counts are new, so ask once before others must wait."""
    allotments = queries.allotments_of(connection, [account.id])[account.id]
    return budget.excess(account, allotments, coordinator, share)


def take_back(
    connection: sa.Connection, name: AccountName, over: Mapping[str, Counts], reason: str
) -> None:
    """Give up, by run, what ``excess`` says."""
    for run, rest in over.items():
        give_up(connection, queries.locked(connection, name), run, rest, reason)
