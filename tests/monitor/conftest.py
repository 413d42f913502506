"""Ledgers to look at, on both databases."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from dpbitfit_monitor.reader import LedgerViews

from dpbitfit.ledger import Account, Ledger
from tests.dpbitfit.ledger.conftest import ledger, postgresql, reopen, url
from tests.support.ledgers import NAME, OTHER, account, run_rounds, steps

__all__ = ["ledger", "postgresql", "reopen", "url"]


class Clock:
    """The time, moved on by ``later``."""

    def __init__(self) -> None:
        self.later = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.later


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def reader(ledger: Ledger, url: str, clock: Clock) -> LedgerViews:
    return LedgerViews(url, now=clock)


@pytest.fixture
def north(ledger: Ledger) -> Account:
    """A run of 100 steps, two rounds of 10 answered, one refused, one that is open."""
    opened = account(ledger)
    ledger.allot(NAME, "one", "plan", steps(100))
    run_rounds(ledger, opened, "one", 2, steps(10))
    ledger.reserve("one", 2, {opened.id: "third"}, steps(10))
    ledger.commit({"third": "refused"})
    ledger.reserve("one", 3, {opened.id: "open"}, steps(10))
    return opened


@pytest.fixture
def south(ledger: Ledger) -> Account:
    """An account without requests."""
    return account(ledger, OTHER, budget=2.0)


@pytest.fixture
def refined() -> Callable[[LedgerViews], LedgerViews]:
    """Computes every smallest bound that a reader waits for."""

    def refine(reader: LedgerViews) -> LedgerViews:
        reader.overview(fresh=True)
        while reader.bounds.refine():
            pass
        reader.overview(fresh=True)
        return reader

    return refine
