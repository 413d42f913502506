"""Reserving and settling rounds, inside a transaction of the ledger."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby

import sqlalchemy as sa

from dpbitfit.accounting.mechanism import Counts
from dpbitfit.errors import LedgerError
from dpbitfit.ledger import journal, outbox, queries, schema, steps
from dpbitfit.ledger.account import AccountName
from dpbitfit.ledger.canonical import counts_from_text, counts_to_text
from dpbitfit.ledger.events import KeyVoided, RoundCommitted, RoundReleased, RoundReserved
from dpbitfit.ledger.outbox import Reply
from dpbitfit.ledger.queries import Reservation


def reserve(
    connection: sa.Connection, run: str, number: int, keys: Mapping[int, str], counts: Counts
) -> None:
    """Reserve one round of a run, by account id under these keys."""
    accounts = queries.lock(connection, keys)
    steps.move(connection, run, keys, counts, reserved=1)
    row = {"run": run, "round": number, "state": "reserved", "outcome": ""}
    rows = [
        {"key": key, "account_id": account_id, "counts": counts_to_text(counts), **row}
        for account_id, key in keys.items()
    ]
    connection.execute(sa.insert(schema.reservation), rows)
    owners = queries.owners_of(connection, keys, [run])
    causes = {account_id: owner for (account_id, _), owner in owners.items()}
    contents = (
        (account, RoundReserved(run, number, keys[account.id], counts)) for account in accounts
    )
    journal.append(connection, contents, causes)


def commit(connection: sa.Connection, outcomes: Mapping[str, str], reply: Reply | None) -> None:
    """Settle the rounds of these keys as spent, and store a site's reply with it."""
    reservations = queries.reservations_of(connection, schema.reservation.c.key, outcomes)
    missing = outcomes.keys() - {reservation.key for reservation in reservations}
    wrong = [each.key for each in reservations if each.state in ("released", "void")]
    if missing or wrong:
        raise LedgerError(f"round {min([*missing, *wrong])} was not reserved")
    fresh = [reservation for reservation in reservations if reservation.state == "reserved"]
    contents = {
        reservation.key: RoundCommitted(reservation.key, outcomes[reservation.key])
        for reservation in fresh
    }
    _settle(connection, fresh, contents)
    if reply is not None:
        if reply.key not in contents:
            raise LedgerError(f"round {reply.key} was settled before its reply")
        outbox.store(connection, reply)


def release(connection: sa.Connection, key: str, proof: str) -> None:
    """Give a reserved round's steps back."""
    reservations = queries.reservations_of(connection, schema.reservation.c.key, [key])
    if not reservations or reservations[0].state != "reserved":
        raise LedgerError(f"round {key} is not reserved")
    _settle(connection, reservations, {key: RoundReleased(key, "untouched", proof)})


def void_key(
    connection: sa.Connection, name: AccountName, run: str, number: int, key: str, coordinator: str
) -> bool:
    """Record that a key will never be trained; False where it was reserved before."""
    account = queries.locked(connection, name)
    known = queries.reservations_of(connection, schema.reservation.c.key, [key])
    if known:
        return known[0].state == "void" and known[0].account_id == account.id
    row = {"run": run, "round": number, "counts": "[]", "state": "void", "outcome": ""}
    change = sa.insert(schema.reservation).values(key=key, account_id=account.id, **row)
    connection.execute(change)
    content = KeyVoided(run, number, key, coordinator)
    journal.append(connection, [(account, content)], coordinator)
    return True


def _settle(
    connection: sa.Connection,
    reservations: Iterable[Reservation],
    contents: Mapping[str, RoundCommitted | RoundReleased],
) -> None:
    """Settle reservations, each as its content by key says."""

    def alike(reservation: Reservation) -> tuple[str, str, str, str]:
        content = contents[reservation.key]
        counts = counts_to_text(reservation.counts)
        return content.kind, reservation.run, counts, content.outcome

    # An account has one reservation a group; a second of the same account waits its turn.
    for batch in _batches(reservations):
        accounts = queries.lock(connection, [reservation.account_id for reservation in batch])
        for (kind, run, text, outcome), group in groupby(sorted(batch, key=alike), alike):
            members = list(group)
            ids = [reservation.account_id for reservation in members]
            state, spent = ("committed", 1) if kind == RoundCommitted.kind else ("released", 0)
            counts = counts_from_text(text)
            steps.move(connection, run, ids, counts, reserved=-1, committed=spent)
            table = schema.reservation
            change = sa.update(table).values(state=state, outcome=outcome)
            for keys in queries.chunks([reservation.key for reservation in members]):
                connection.execute(change.where(table.c.key.in_(keys)))
        of_account = {reservation.account_id: reservation for reservation in batch}
        owners = queries.owners_of(
            connection, of_account, {reservation.run for reservation in batch}
        )
        causes = {
            account_id: owners[account_id, reservation.run]
            for account_id, reservation in of_account.items()
        }
        entries = ((account, contents[of_account[account.id].key]) for account in accounts)
        journal.append(connection, entries, causes)


def _batches(reservations: Iterable[Reservation]) -> Iterator[list[Reservation]]:
    """Lists in which each account stands once at most."""
    left = list(reservations)
    while left:
        seen: set[int] = set()
        batch: list[Reservation] = []
        later: list[Reservation] = []
        for reservation in left:
            (later if reservation.account_id in seen else batch).append(reservation)
            seen.add(reservation.account_id)
        yield batch
        left = later
