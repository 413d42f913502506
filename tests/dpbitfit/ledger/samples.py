"""Small ledgers for tests of what is derived from them."""

from pathlib import Path

from dpbitfit.accounting import Counts, Mechanism
from dpbitfit.ledger import Account, Ledger, Name

NAME = Name("north", "letters", "person")
OTHER = Name("south", "letters", "person")
DELTA = 1e-5
STEP = Mechanism(4.0, 0.02)


def steps(count: int, mechanism: Mechanism = STEP) -> Counts:
    return ((mechanism, count),)


def book(folder: Path, name: str = "ledger.sqlite") -> Ledger:
    return Ledger(str(folder / name), create=True)


def account(ledger: Ledger, name: Name = NAME, budget: float = 8.0) -> Account:
    return ledger.open_account(name, DELTA, budget)


def run_rounds(
    ledger: Ledger, of: Account, run: str, rounds: int, bag: Counts, outcome: str = "reply"
) -> None:
    """Reserve rounds of a run and commit them; an empty outcome leaves them reserved."""
    for number in range(rounds):
        key = f"{run}-{number}-{of.id}"
        ledger.reserve(run, number, {of.id: key}, bag)
        if outcome:
            ledger.commit({key: outcome})
