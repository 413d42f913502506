"""An account's events as lines of JSON, the way back, and a report for others to read.

A line stands for itself: account, sequence, kind, the canonical text that was
hashed, and the hash. A chain shows that nothing was changed in it or left out of
it; it does not show who wrote it, nor that no later event exists.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import sqlalchemy as sa

from dpbitfit.accounting.composition import RDP_ORDERS
from dpbitfit.errors import DpbitfitError, InputError, LedgerError
from dpbitfit.ledger import queries, schema, status
from dpbitfit.ledger.budget import Account
from dpbitfit.ledger.events import AccountName, Event, Tally, counts_to_text
from dpbitfit.ledger.ledger import Ledger, budget_facts, check_name
from dpbitfit.ledger.reader import Reader
from dpbitfit.ledger.verify import verify

_PAGE = 1000
_FIELDS = ("sequence", "kind", "body", "hash")


def lines(ledger: Reader, name: AccountName) -> Iterator[str]:
    """An account's events in order, one line of JSON each; InputError where it is not."""
    after = 0
    while page := ledger.events(name, after, _PAGE):
        for event in page:
            yield json.dumps({"account": list(name), **vars(event)})
        after = page[-1].sequence


def import_events(ledger: Ledger, exported: Iterable[bytes]) -> dict[AccountName, int]:
    """Add exported events to the ledger: all of them, verified, or none.

    Accounts that are not there are made; events that are there already must be
    the same and are passed over. Returns the number of new events of each
    account. Raises LedgerError, naming the line, for the first that is damaged
    or does not extend what is there. Figures, answers and the other side's
    positions are not exported, and this ledger stays the one that it is.
    """
    chains: dict[AccountName, _Chain] = {}
    with ledger.database.write() as connection:
        for number, line in enumerate(exported, 1):
            try:
                name, event = _parse(line)
                if name not in chains:
                    chains[name] = _Chain.of(connection, name)
                chains[name].add(event)
            except (DpbitfitError, ValueError, TypeError, KeyError, RecursionError) as error:
                reason = error if isinstance(error, DpbitfitError) else "it cannot be read"
                raise LedgerError(f"line {number}: {reason}; nothing was imported") from error
        for chain in chains.values():
            chain.write(connection)
        for name in chains:
            verify(connection, name)
    return {name: len(chain.fresh) for name, chain in chains.items()}


@dataclass
class _Chain:
    """One account on its way in: what is there, and the events that extend it."""

    tally: Tally
    account: Account | None
    known: list[Event]
    fresh: list[Event] = field(default_factory=list)

    @classmethod
    def of(cls, connection: sa.Connection, name: AccountName) -> Self:
        account = queries.find_account(connection, name, lock=True)
        if account is None:
            check_name(name)
            return cls(Tally(name), None, [])
        known = list(queries.events_of(connection, account.id))
        return cls(verify(connection, name), account, known)

    def add(self, event: Event) -> None:
        """Add the next event; LedgerError where it is not the next, or not the one there."""
        if not self.fresh and 0 < event.sequence <= len(self.known):
            if event != self.known[event.sequence - 1]:
                raise LedgerError(
                    f"account {self.tally.name}, event {event.sequence}: another event stands "
                    "here in this ledger"
                )
            return
        self.tally.add(event)
        self.fresh.append(event)
        tally = self.tally
        if budget_facts(float(tally.delta), float(tally.budget)) != {
            "delta": tally.delta,
            "budget": tally.budget,
        }:
            raise ValueError("a number is not in its canonical form")
        if tally.filter_order not in (0, *RDP_ORDERS):
            raise ValueError("there is no such order")

    def write(self, connection: sa.Connection) -> None:
        """Write the new events, and bring every other table to what the chain adds up to."""
        if not self.fresh:
            return
        tally = self.tally
        if self.account is None:
            values = {**tally.name._asdict(), "filter_order": 0, "sequence": 0, "head": ""}
            values |= {"delta": tally.delta, "budget": tally.budget}
            connection.execute(sa.insert(schema.account).values(values))
            self.account = queries.find_account(connection, tally.name)
            assert self.account is not None
        of = self.account.id
        names = ("delta", "budget", "filter_order", "sequence", "head")
        queries.update_account(connection, of, **{name: getattr(tally, name) for name in names})
        causes = tally.causes[-len(self.fresh) :]
        events = [
            {"account_id": of, **vars(event), "coordinator": cause}
            for event, cause in zip(self.fresh, causes, strict=True)
        ]
        connection.execute(sa.insert(schema.event), events)
        self._write_allotments(connection, of)
        self._write_rounds(connection, of)

    def _write_allotments(self, connection: sa.Connection, of: int) -> None:
        table = schema.allotment
        for (run, mechanism), held in self.tally.held.items():
            at = {"account_id": of, "run": run, **queries.mechanism_text(mechanism)}
            numbers = {**vars(held), "adaptive": int(held.adaptive)}
            change = sa.update(table).where(*queries.equal(table, at)).values(**numbers)
            if not connection.execute(change).rowcount:
                connection.execute(sa.insert(table).values(**at, **numbers))

    def _write_rounds(self, connection: sa.Connection, of: int) -> None:
        table = schema.reservation
        before = {one.key for one in queries.reservations_of(connection, table.c.account_id, [of])}
        changed = {json.loads(event.body).get("key") for event in self.fresh} - {None}
        new = []
        for key in changed:
            values = {**self.tally.rounds[key]._asdict(), "key": key, "account_id": of}
            values["counts"] = counts_to_text(self.tally.rounds[key].counts)
            if key in before:
                connection.execute(sa.update(table).where(table.c.key == key).values(**values))
            else:
                new.append(values)
        if new:
            connection.execute(sa.insert(table), new)


def _parse(line: bytes) -> tuple[AccountName, Event]:
    read = json.loads(line)
    site, dataset, unit = read["account"]
    event = Event(*(read[key] for key in _FIELDS))
    texts = (site, dataset, unit, event.kind, event.body, event.hash)
    if type(event.sequence) is not int or not all(isinstance(text, str) for text in texts):
        raise ValueError("a field has another type")
    return AccountName(site, dataset, unit), event


# What holds for every account of this project, in the words of the two templates.
STATEMENTS: Mapping[str, Any] = {
    "adjacency": "add or remove one unit, that is all records of one unit; the declared size, "
    "rates and norms are public constants",
    "mechanism": "Gaussian noise on the sum of clipped per-unit gradients, at every step",
    "trust_model": "each site is trusted with its own records and adds the noise itself, before "
    "anything leaves it; coordinator, other sites and readers of the model are not trusted",
    "sampling": "Poisson: each unit takes part in each step independently, at the public "
    "sampling rate; an empty sample is a noisy step too",
    "randomness": "the operating system's cryptographic generator, without a seed; the sampler "
    "of the noise is named in each run's plan, and one that is called insecure voids the figures",
    "horizon": "every run, project and restart on this account since its first event",
    "refresh_policy": "none: a budget is not renewed for the same records; one that is lowered "
    "takes back what was approved above it and is not spent, and one that is raised again brings "
    "nothing back",
    "public": [
        "the label set, the initial model and every test record",
        "the plan: rates, noise, clipping norm, numbers of rounds and steps",
        "each site's declared size and weight",
        "which site takes part in which round, failures as a fixed code, and timing",
    ],
    "not_covered": [
        "releases of the same records that were not recorded in this account",
        "the same unit's records under another account, site or unit name",
        "a site that does not follow the protocol, and its own logs",
        "what is read off timing or from memory",
    ],
}


def report(ledger: Reader, name: AccountName) -> dict[str, Any]:
    """What others need to judge an account, as JSON can hold it.

    The fields of NIST SP 800-226 (2025) and of the registry of deployments
    (Nanayakkara, Ghazi and Vadhan 2025). Raises InputError where there is no
    such account, LedgerError where its events do not add up.
    """
    account = ledger.account(name)
    tally = ledger.verify(account)
    standing = status.standing(ledger, account)
    runs = status.run_standings(ledger, account)
    return {
        "account": name._asdict(),
        "unit": name.unit,
        "epsilon": standing.promised,
        "delta": account.delta,
        "budget": account.budget,
        "guaranteed": standing.guaranteed.describe(),
        "accrued": standing.accrued.describe(),
        "curve": status.describe_bounds(status.curve(ledger, account)),
        "runs": [status.describe_run(run) for run in runs],
        **STATEMENTS,
        "audit_evidence": {
            "ledger": ledger.id,
            "events": tally.sequence,
            "chain_head": tally.head,
            "verified": True,
        },
    }


def read_lines(path: str) -> Iterator[bytes]:
    """The lines of an exported file; InputError where it cannot be read."""
    try:
        with open(path, "rb") as file:
            yield from file
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
