"""Raising runs' counts to what another record holds, inside a transaction of the ledger."""

from collections.abc import Mapping

import sqlalchemy as sa

from dpbitfit.accounting.mechanism import Counts, Mechanism, checked
from dpbitfit.accounting.renyi import filter_order
from dpbitfit.errors import LedgerError
from dpbitfit.ledger import journal, queries, schema, steps
from dpbitfit.ledger.account import Account, AccountName
from dpbitfit.ledger.canonical import mechanism_to_text
from dpbitfit.ledger.events import CountsRaised
from dpbitfit.ledger.fold import Allotment

# Of a mechanism at rate 1 the divergence is proportional to the order, whatever its noise.
_FULL_BATCH = {Mechanism(1.0, 1.0): 1}


def rebase(
    connection: sa.Connection,
    name: AccountName,
    runs: Mapping[str, Counts],
    coordinator: str,
    reason: str,
) -> None:
    """Count these steps of each run as spent, and take back approvals that pass the budget."""
    for run, counts in runs.items() or {"": ()}.items():
        account = queries.locked(connection, name)
        # Fixed without a look at what was lost, of which results were seen.
        order = account.filter_order or (
            filter_order(_FULL_BATCH, account.delta, account.budget) if counts else 0
        )
        queries.update_account(connection, account.id, filter_order=order)
        allotted = _raise(connection, account, run, counts, coordinator)
        content = CountsRaised(run, coordinator, counts, reason, order, allotted)
        journal.append(connection, [(account, content)], coordinator)
    over = steps.excess(connection, queries.locked(connection, name))
    steps.take_back(connection, name, over, reason)


def _raise(
    connection: sa.Connection, account: Account, run: str, counts: Counts, coordinator: str
) -> Counts:
    """Commit steps of a run; returns by how many more than were left of its allotment."""
    allotments = queries.allotments_of(connection, [account.id])[account.id]
    if any(
        owner == run and allotment.coordinator != coordinator
        for (owner, _), allotment in allotments.items()
    ):
        raise LedgerError(f"account {account.name}: run {run} is another coordinator's")
    table = schema.allotment
    added = {}
    for mechanism, number in counts:
        before = allotments.get((run, mechanism), Allotment())
        more = max(0, number - before.left)
        at = {"account_id": account.id, "run": run, **mechanism_to_text(mechanism)}
        if (run, mechanism) in allotments:
            values = {"allotted": before.allotted + more, "committed": before.committed + number}
            change = sa.update(table).where(*queries.equal(table, at))
            connection.execute(change.values(**values))
        else:
            new = {"plan": "", "coordinator": coordinator, "adaptive": 1}
            values = {"allotted": more, "committed": number}
            connection.execute(sa.insert(table).values(**at, **new, **values))
        added[mechanism] = more
    return checked(added)
