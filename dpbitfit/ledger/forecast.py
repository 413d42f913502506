"""What a plan would cost an account beside all that is there, and which noise would fit.

A plan has a cost by itself, and a price on an account: by how much it raises what the account
guarantees. After results were seen the price is the rest of the budget, whatever the plan costs.
"""

import math
from contextlib import suppress
from dataclasses import dataclass, replace

from dpbitfit.accounting.composition import Bound
from dpbitfit.accounting.mechanism import Counts, Mechanism, merged
from dpbitfit.errors import AccountingError, BudgetError
from dpbitfit.ledger.account import Account
from dpbitfit.ledger.budget import Epsilon, approve, fitting_noise, tight
from dpbitfit.ledger.fold import Allotment, Allotments
from dpbitfit.ledger.reader import Reader
from dpbitfit.ledger.status import FILTERED, BudgetStatus, derive_status


@dataclass(frozen=True)
class Price:
    """An account's figures before a plan is approved and with it; ``alone`` is the plan's cost."""

    before: BudgetStatus
    after: BudgetStatus
    alone: Bound

    def __str__(self) -> str:
        before, after = (status.guaranteed.bound.epsilon for status in (self.before, self.after))
        account = self.after.account
        text = (
            f"the plan costs epsilon {self.alone.epsilon:.3f} by itself; the account's guaranteed "
            f"epsilon goes from {before:.3f} to {after:.3f}, of a budget of {account.budget:g}, at "
            f"delta {account.delta:g}"
        )
        filtered = self.after.guaranteed.basis == FILTERED
        return f"{text}: {FILTERED}" if filtered and after > before else text


@dataclass(frozen=True)
class Forecast:
    """``fitting_noise_multiplier`` is None where no noise fits.

    ``approved`` is what all that is approved would take of the budget with the plan; None
    where no noise multiplier was given; ``price`` is None also where the plan does not fit.
    ``fitting_target_epsilon`` is that of the same plan with more noise, where it was looked for.
    """

    account: Account
    sampling_rate: float
    steps: int
    fitting_noise_multiplier: float | None
    approved: Bound | None
    price: Price | None = None
    fitting_target_epsilon: float | None = None

    @property
    def fits(self) -> bool:
        """Whether the plan fits the budget; without a noise multiplier, whether any would."""
        if self.approved is not None:
            return self.approved.epsilon <= self.account.budget
        return self.fitting_noise_multiplier is not None


def price(
    account: Account, allotments: Allotments, plan: Counts, epsilon: Epsilon = tight
) -> Price:
    """The price of a plan on an account; BudgetError where it does not fit. Seconds."""
    approval = approve(account, allotments, plan)
    run = "".join(run for run, _ in allotments) + "+"  # which no other has
    more = {
        (run, mechanism): Allotment(allotted=steps, adaptive=approval.adaptive)
        for mechanism, steps in plan
    }
    before = derive_status(account, allotments, epsilon)
    later = replace(account, filter_order=approval.order)
    after = derive_status(later, {**allotments, **more}, epsilon)
    return Price(before, after, epsilon(plan, account.delta))


def fits(ledger: Reader, account: Account, plan: Counts) -> bool:
    """Whether an account's budget holds a plan beside all that is there. Seconds."""
    try:
        approve(account, ledger.allotments([account.id])[account.id], plan)
    except BudgetError:
        return False
    return True


def forecast(
    ledger: Reader,
    account: Account,
    sampling_rate: float,
    steps: int,
    noise_multiplier: float = 0,
    beside: Counts = (),
) -> Forecast:
    """Forecast a plan of ``steps``; a noise multiplier of 0 asks only what fits.

    ``beside`` them stand the plan's other steps. Seconds of computing. Raises
    AccountingError for numbers out of range.
    """
    Mechanism(noise_multiplier or 1.0, sampling_rate)
    allotments = ledger.allotments([account.id])[account.id]
    fitting = None
    with suppress(AccountingError):
        fitting = fitting_noise(account, allotments, sampling_rate, steps, beside)
    approved = cost = None
    if noise_multiplier:
        plan = merged((*beside, (Mechanism(noise_multiplier, sampling_rate), steps)))
        # A budget that refuses nothing shows the figure.
        approved = approve(replace(account, budget=math.inf), allotments, plan).bound
        with suppress(BudgetError):
            cost = price(account, allotments, plan)
    return Forecast(account, sampling_rate, steps, fitting, approved, cost)
