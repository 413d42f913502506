"""A ledger of many accounts that all went through many rounds, written in bulk."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from dpbitfit.accounting.composition import Mechanism
from dpbitfit.ledger import AccountName, Ledger, queries, schema
from dpbitfit.ledger.events import GENESIS, counts_to_text, make

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
    bodies = [json.loads(one.body) for one in ledger.events(first)]
    with ledger.database.write() as connection:
        account = connection.execute(sa.select(schema.account)).one()._asdict()
        allotment = connection.execute(sa.select(schema.allotment)).one()._asdict()
        for table in (schema.event, schema.allotment, schema.account):
            connection.execute(sa.delete(table))
        for number in range(accounts):
            of = account["id"] + number
            events = list(_events(of, name_of(number), bodies, rounds, number % silent == 1))
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
    of: int, name: AccountName, bodies: list[dict[str, Any]], rounds: int, silent: bool
) -> Iterator[Any]:
    began = datetime.now(UTC) - timedelta(minutes=rounds)
    head, sequence = GENESIS, 0

    def chained(kind: str, at: str, **facts: Any) -> Any:
        nonlocal head, sequence
        sequence += 1
        event = make(name, sequence, head, kind, at, **facts)
        head = event.hash
        return event

    for body in bodies:
        own = ("account", "sequence", "previous", "kind", "at")
        facts = {key: value for key, value in body.items() if key not in own}
        yield chained(body["kind"], body["at"], **facts)
    for number in range(rounds):
        at = (began + timedelta(minutes=number)).isoformat(timespec="seconds")
        key = f"{number}-{of}"
        counts = queries.triples(STEPS)
        yield chained("reserve", at, run=RUN, round=number, key=key, counts=counts)
        outcome = "no reply" if silent and number % 10 == 0 else "reply"
        yield chained("commit", at, key=key, outcome=outcome)


def _reservations(of: int, events: list[Any], rounds: int) -> Iterator[dict[str, Any]]:
    text = counts_to_text(STEPS)
    for number in range(rounds):
        outcome = json.loads(events[-2 * (rounds - number) + 1].body)["outcome"]
        row = {"account_id": of, "run": RUN, "round": number, "counts": text}
        yield {**row, "key": f"{number}-{of}", "state": "committed", "outcome": outcome}
