"""Small ledgers for tests of what is derived from them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dpbitfit.accounting import composition
from dpbitfit.accounting.composition import Counts, Mechanism
from dpbitfit.ledger import Account, AccountName, Ledger

NAME = AccountName("north", "letters", "person")
OTHER = AccountName("south", "letters", "person")
DELTA = 1e-5
STEP = Mechanism(4.0, 0.02)


def steps(count: int, mechanism: Mechanism = STEP) -> Counts:
    return ((mechanism, count),)


def book(folder: Path, name: str = "ledger.sqlite") -> Ledger:
    return Ledger(str(folder / name), create=True)


def account(ledger: Ledger, name: AccountName = NAME, budget: float = 8.0) -> Account:
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


NOISY = Mechanism(2.0, 0.2)
ADAPTIVE_BUDGET = 6.7


def adaptive(ledger: Ledger) -> Account:
    """An account whose second plan was approved after results of the first; 100 steps are spent.

    A tight composition of them is 75 % of the budget, the filter's figure 83 %.
    """
    of = account(ledger, NAME, ADAPTIVE_BUDGET)
    ledger.allot(NAME, "one", "first", steps(40, NOISY))
    run_rounds(ledger, of, "one", 4, steps(10, NOISY))
    ledger.allot(NAME, "two", "second", steps(70, NOISY))
    run_rounds(ledger, of, "two", 6, steps(10, NOISY))
    return ledger.account(NAME)


def no_bound() -> float:
    """The tight composition of what ``adaptive`` has spent, which bounds nothing."""
    return composition.epsilon({NOISY: 100}, DELTA).epsilon


def numbers(told: Any) -> Iterator[float]:
    """Every number in what JSON holds."""
    if isinstance(told, dict | list):
        for each in told.values() if isinstance(told, dict) else told:
            yield from numbers(each)
    elif isinstance(told, int | float):
        yield told
