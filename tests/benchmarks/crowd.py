"""A ledger of many accounts that all went through many rounds, written in bulk."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from dpbitfit.accounting.mechanism import Mechanism
from dpbitfit.ledger import AccountName, Ledger, schema
from dpbitfit.ledger.canonical import counts_to_text
from dpbitfit.ledger.encoding import read, write
from dpbitfit.ledger.events import GENESIS, Content, Entry, Event, RoundCommitted, RoundReserved

DELTA, BUDGET, RUN = 1e-5, 8.0, "run"
STEPS = ((Mechanism(4.0, 0.01), 5),)


def name_of(number: int) -> AccountName:
    return AccountName(f"site-{number:05}", "letters", "patient")


def crowd(url: str, accounts: int, rounds: int, ahead: int = 100, silent: int = 50) -> Ledger:
    """One run with ``ahead`` more rounds; each ``silent``-th account missed every tenth."""
    ledger = Ledger(url, create=True)
    first = name_of(0)
    ledger.open_account(first, DELTA, BUDGET)
    plan = tuple((mechanism, steps * (rounds + ahead)) for mechanism, steps in STEPS)
    ledger.allot(first, RUN, "plan", plan)
    opening = [read(event) for event in ledger.events(first)]
    with ledger.database.write() as connection:
        account = connection.execute(sa.select(schema.account)).one()._asdict()
        allotment = connection.execute(sa.select(schema.allotment)).one()._asdict()
        for table in (schema.event, schema.allotment, schema.account):
            connection.execute(sa.delete(table))
        for number in range(accounts):
            of = account["id"] + number
            events = list(_events(of, name_of(number), opening, rounds, number % silent == 1))
            made = {**account, "id": of, "site": name_of(number).site, "sequence": len(events)}
            connection.execute(sa.insert(schema.account).values({**made, "head": events[-1].hash}))
            spent = {"committed": STEPS[0][1] * rounds, "id": allotment["id"] + number}
            held = {**allotment, "account_id": of, **spent}
            connection.execute(sa.insert(schema.allotment).values(held))
            columns = [{"account_id": of, **vars(event)} for event in events]
            connection.execute(sa.insert(schema.event), columns)
            connection.execute(
                sa.insert(schema.reservation), list(_reservations(of, events, rounds))
            )
        if not ledger.database.is_sqlite:
            for table in (schema.account, schema.allotment):
                name = f"{table.name}_id_seq"
                connection.execute(sa.select(sa.func.setval(name, account["id"] + accounts)))
    return ledger


def _events(
    of: int, name: AccountName, opening: list[Entry], rounds: int, silent: bool
) -> Iterator[Event]:
    began = datetime.now(UTC) - timedelta(minutes=rounds)
    contents: list[tuple[datetime, Content]] = [(entry.at, entry.content) for entry in opening]
    for number in range(rounds):
        at, key = began + timedelta(minutes=number), f"{number}-{of}"
        contents.append((at, RoundReserved(RUN, number, key, STEPS)))
        outcome = "no reply" if silent and number % 10 == 0 else "reply"
        contents.append((at, RoundCommitted(key, outcome)))
    head = GENESIS
    for sequence, (at, content) in enumerate(contents, 1):
        event = write(Entry(name, sequence, head, at, content))
        head = event.hash
        yield event


def _reservations(of: int, events: list[Any], rounds: int) -> Iterator[dict[str, Any]]:
    text = counts_to_text(STEPS)
    for number in range(rounds):
        outcome = json.loads(events[-2 * (rounds - number) + 1].body)["outcome"]
        row = {"account_id": of, "run": RUN, "round": number, "counts": text}
        yield {**row, "key": f"{number}-{of}", "state": "committed", "outcome": outcome}
