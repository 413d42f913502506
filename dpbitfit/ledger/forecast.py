"""What a plan would cost an account beside all that is there, and which noise would fit."""

import math
from contextlib import suppress
from dataclasses import dataclass, replace

from dpbitfit.accounting.composition import Bound, Counts, Mechanism
from dpbitfit.errors import AccountingError
from dpbitfit.ledger.account import Account
from dpbitfit.ledger.budget import approve, fitting_noise
from dpbitfit.ledger.reader import Reader


@dataclass(frozen=True)
class Forecast:
    """``fitting_noise_multiplier`` is None where no noise fits.

    ``approved`` is what all that is approved would take of the budget with the plan; None
    where no noise multiplier was given.
    """

    account: Account
    sampling_rate: float
    steps: int
    fitting_noise_multiplier: float | None
    approved: Bound | None

    @property
    def fits(self) -> bool:
        """Whether the plan fits the budget; without a noise multiplier, whether any would."""
        if self.approved is not None:
            return self.approved.epsilon <= self.account.budget
        return self.fitting_noise_multiplier is not None


def forecast(
    ledger: Reader, account: Account, sampling_rate: float, steps: int, noise_multiplier: float = 0
) -> Forecast:
    """Forecast a plan of so many steps; a noise multiplier of 0 asks only what fits.

    Seconds of computing. Raises AccountingError for numbers out of range.
    """
    Mechanism(noise_multiplier or 1.0, sampling_rate)
    allotments = ledger.allotments([account.id])[account.id]
    fitting = None
    with suppress(AccountingError):
        fitting = fitting_noise(account, allotments, sampling_rate, steps)
    approved = None
    if noise_multiplier:
        plan = ((Mechanism(noise_multiplier, sampling_rate), steps),)
        approved = cost_of(ledger, account, plan)
    return Forecast(account, sampling_rate, steps, fitting, approved)


def cost_of(ledger: Reader, account: Account, plan: Counts) -> Bound:
    """What all that is approved on an account would take of its budget with one more plan."""
    allotments = ledger.allotments([account.id])[account.id]
    # A budget that refuses nothing shows the figure.
    return approve(replace(account, budget=math.inf), allotments, plan).bound
