"""Small ledgers for tests of what is derived from them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dpbitfit.accounting import composition
from dpbitfit.accounting.mechanism import Counts, Mechanism
from dpbitfit.ledger import Account, AccountName, Ledger

NAME = AccountName("north", "letters", "person")
OTHER = AccountName("south", "letters", "person")
DELTA = 1e-5
STEP = Mechanism(4.0, 0.02)


def steps(count: int, mechanism: Mechanism = STEP) -> Counts:
    return ((mechanism, count),)


def new_ledger(folder: Path, name: str = "ledger.sqlite") -> Ledger:
    return Ledger(str(folder / name), create=True)


def account(ledger: Ledger, name: AccountName = NAME, budget: float = 8.0) -> Account:
    return ledger.open_account(name, DELTA, budget)


def run_rounds(
    ledger: Ledger, account: Account, run: str, rounds: int, counts: Counts, outcome: str = "reply"
) -> None:
    """Reserve rounds of a run and commit them; an empty outcome leaves them reserved."""
    for number in range(rounds):
        key = f"{run}-{number}-{account.id}"
        ledger.reserve(run, number, {account.id: key}, counts)
        if outcome:
            ledger.commit({key: outcome})


NOISY = Mechanism(2.0, 0.2)
ADAPTIVE_BUDGET = 6.7


def adaptive(ledger: Ledger) -> Account:
    """An account whose second plan was approved after results of the first; 100 steps are spent.

    A tight composition of them is 75 % of the budget, the filter's figure 83 %.
    """
    opened = account(ledger, NAME, ADAPTIVE_BUDGET)
    ledger.allot(NAME, "one", "first", steps(40, NOISY))
    run_rounds(ledger, opened, "one", 4, steps(10, NOISY))
    ledger.allot(NAME, "two", "second", steps(70, NOISY))
    run_rounds(ledger, opened, "two", 6, steps(10, NOISY))
    return ledger.account(NAME)


def no_bound() -> float:
    """The tight composition of what ``adaptive`` has spent, which bounds nothing."""
    return composition.epsilon({NOISY: 100}, DELTA).epsilon


def numbers(value: Any) -> Iterator[float]:
    """Every number in what JSON holds."""
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from numbers(each)
    elif isinstance(value, int | float):
        yield value
