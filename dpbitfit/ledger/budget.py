"""What an account's budget still allows.

A plan is a bag of mechanisms, approved as a whole. Bags that were approved
before any result was seen compose exactly: in any order, interleaved, stopped
early, they cost at most what the tight accountants say of all of them together.
A plan chosen later may depend on what was seen; then only a filter on the Rényi
divergence of one order may decide, and the order is that of the first plans
(Feldman and Zrnic 2021, arXiv 2008.11193).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from dpbitfit import accounting
from dpbitfit.accounting import Bound, Counts, Mechanism, checked, merged
from dpbitfit.calibration import calibrate
from dpbitfit.errors import AccountingError, BudgetError
from dpbitfit.ledger.events import Held, Name, total
from dpbitfit.renyi import filter_epsilon, filter_order

Holdings = Mapping[tuple[str, Mechanism], Held]


@dataclass(frozen=True)
class Account:
    """An account: ``budget`` is epsilon at ``delta``; ``sequence`` and ``head`` its last event."""

    id: int
    name: Name
    delta: float
    budget: float
    filter_order: int
    sequence: int
    head: str


@dataclass(frozen=True)
class Approval:
    """A plan that fits: what the account is committed to with it, and by which rule."""

    bound: Bound
    adaptive: bool
    order: int


def spent(holdings: Holdings) -> Counts:
    """Steps that were made, or may have been made."""
    return checked(total(holdings, "reserved", "committed"))


def approved(holdings: Holdings) -> Counts:
    """Every step that was ever approved."""
    return checked(total(holdings, "allotted"))


def still_approved(holdings: Holdings) -> Counts:
    """Every step that was approved and not given up."""
    given_up = total(holdings, "voided")
    return checked({m: n - given_up[m] for m, n in approved(holdings)})


def approve(
    account: Account,
    holdings: Holdings,
    plan: Counts,
    coordinator: str = "",
    share: float = math.inf,
) -> Approval:
    """Approve one more plan, or raise BudgetError with the figure.

    ``share`` is the part of the budget that all plans of ``coordinator`` may cost.
    """
    if share < account.budget:
        own = {place: held for place, held in holdings.items() if held.coordinator == coordinator}
        approve(replace(account, budget=share), own, plan)
    adaptive = bool(spent(holdings))
    if adaptive:
        order = account.filter_order
        bound = filtered(merged((*still_approved(holdings), *plan)), account.delta, order)
    else:
        everything = dict(merged((*approved(holdings), *plan)))
        order = filter_order(everything, account.delta, account.budget)
        bound = accounting.epsilon(everything, account.delta)
    if bound.epsilon > account.budget:
        raise BudgetError(
            f"account {account.name}: with this plan epsilon would be {bound.epsilon:.3f} "
            f"({bound.accountant}), above its budget of {account.budget:g}"
        )
    return Approval(bound, adaptive, order)


def filtered(counts: Counts, delta: float, order: int) -> Bound:
    """The filter's figure, in the form of every other."""
    name = f"RDP filter of order {order}"
    value = filter_epsilon(dict(counts), delta, order)
    return Bound(value, delta, name, accounting.version_of("RDP"), 0.0)


def fitting_noise(account: Account, holdings: Holdings, rate: float, steps: int) -> float:
    """The least noise multiplier with which so many more steps fit the account's budget.

    Raises AccountingError where none does.
    """
    adaptive = bool(spent(holdings))
    return calibrate(
        account.budget,
        account.delta,
        rate,
        steps,
        still_approved(holdings) if adaptive else approved(holdings),
        account.filter_order if adaptive else None,
    )


def what_fits(account: Account, holdings: Holdings, plan: Counts) -> str:
    """In words, what would fit in place of a plan that does not; takes seconds."""
    if len(plan) != 1:
        return "fewer steps or more noise may fit"
    mechanism, steps = plan[0]
    rate = mechanism.sampling_rate
    try:
        sigma = fitting_noise(account, holdings, rate, steps)
    except AccountingError:
        return f"no noise multiplier makes {steps} more steps fit"
    return f"{steps} steps at rate {rate:g} fit with noise multiplier {sigma:g}"
