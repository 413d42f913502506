"""An account: whose privacy it counts, its budget, and which names and budgets can be stored."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from dpbitfit.accounting.mechanism import check_delta
from dpbitfit.errors import InputError, LedgerError
from dpbitfit.ledger.canonical import number_to_text
from dpbitfit.ledger.schema import NUMBER_LENGTH
from dpbitfit.validate import LONGEST_NAME, is_name

LARGEST_BUDGET = 1e4  # epsilon


class AccountName(NamedTuple):
    """Whose privacy: a site, a data set of its own, and the unit that is protected."""

    site: str
    dataset: str
    unit: str

    def __str__(self) -> str:
        return "/".join(self)


@dataclass(frozen=True)
class Account:
    """An account: ``budget`` is epsilon at ``delta``; ``sequence`` and ``head`` its last event.

    ``filter_order`` is the Rényi filter's, 0 before any plan.
    """

    id: int
    name: AccountName
    delta: float
    budget: float
    filter_order: int
    sequence: int
    head: str


class AccountRow(NamedTuple):
    """An account as it is stored; its numbers may be damaged."""

    id: int
    site: str
    dataset: str
    unit: str
    delta: str
    budget: str
    filter_order: int
    sequence: int
    head: str

    def read(self) -> Account:
        """The account; LedgerError where a number cannot be read."""
        name = AccountName(self.site, self.dataset, self.unit)
        try:
            delta, budget = float(self.delta), float(self.budget)
        except ValueError as error:
            raise LedgerError(f"account {name}: its row cannot be read") from error
        return Account(self.id, name, delta, budget, self.filter_order, self.sequence, self.head)


def check_name(name: AccountName) -> None:
    """InputError for a name that cannot be shown, or not be told from another."""
    for part, text in name._asdict().items():
        if not is_name(text):
            raise InputError(
                f"an account's {part} is 1 to {LONGEST_NAME} printable characters without '/', "
                f"not {text!r}"
            )


def check_budget(delta: float, epsilon: float) -> None:
    """InputError for a budget that cannot be or not be stored; AccountingError for such a delta."""
    check_delta(delta)
    if not (math.isfinite(epsilon) and 0 < epsilon <= LARGEST_BUDGET):
        raise InputError(f"a budget is an epsilon above 0, at most 10,000, not {epsilon!r}")
    if max(len(number_to_text(value)) for value in (delta, epsilon)) > NUMBER_LENGTH:
        raise InputError(f"epsilon {epsilon!r} at delta {delta!r} is too small to be stored")
