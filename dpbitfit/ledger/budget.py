"""What an account's budget still allows.

A plan is a bag of mechanisms, approved as a whole. Bags that were approved
before any result was seen compose exactly: in any order, interleaved, stopped
early, they cost at most what the tight accountants say of all of them together.
A plan chosen later may depend on what was seen; then only a filter on the Rényi
divergence of one order may decide, and the order is that of the first plans
(Feldman and Zrnic 2021, arXiv 2008.11193).

A budget or a share that is lowered below what was approved takes back what is
left of the approvals (``excess``), so that whole numbers go on to decide.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from dpbitfit.accounting import composition
from dpbitfit.accounting.calibration import calibrate
from dpbitfit.accounting.composition import Bound, Counts, Mechanism, checked, merged
from dpbitfit.accounting.renyi import filter_budget, filter_epsilon, filter_order
from dpbitfit.errors import AccountingError, BudgetError
from dpbitfit.ledger.events import AccountName, Held, total

Holdings = Mapping[tuple[str, Mechanism], Held]
Epsilon = Callable[[Counts, float], Bound]


@dataclass(frozen=True)
class Account:
    """An account: ``budget`` is epsilon at ``delta``; ``sequence`` and ``head`` its last event."""

    id: int
    name: AccountName
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


def is_adaptive(holdings: Holdings) -> bool:
    """Whether a plan among these was chosen after results may have been seen."""
    return any(held.adaptive for held in holdings.values())


def tight(counts: Counts, delta: float) -> Bound:
    """The smallest bound on a bag that was fixed beforehand; seconds when new, then remembered."""
    return composition.epsilon(dict(counts), delta)


def committed(account: Account, holdings: Holdings, delta: float, epsilon: Epsilon) -> Bound:
    """What everything approved takes of a budget, by the rule that approved it.

    ``epsilon`` bounds a bag that was fixed beforehand, which stays as it was; a
    filter forgets what was given up.
    """
    if is_adaptive(holdings):
        return filtered(still_approved(holdings), delta, account.filter_order)
    return epsilon(approved(holdings), delta)


def guaranteed(account: Account, holdings: Holdings, delta: float, epsilon: Epsilon) -> Bound:
    """The bound on all that was and will be released, whatever was seen in between.

    A bag that was fixed beforehand: the bound on all of it, used or not. Once later
    plans depend on results it is the budget: a filter bounds what is released until it
    stops (Feldman and Zrnic 2021, theorem 4.3), not what was spent at a moment that
    results may have chosen; a running bound would be an odometer, which costs more
    (Rogers, Roth, Ullman and Vadhan 2016, arXiv 1605.08294). It is more than the budget
    where more was approved before the results, or under a higher budget.
    """
    if not is_adaptive(holdings):
        return epsilon(approved(holdings), delta)
    order = account.filter_order
    beforehand = checked(
        total({place: held for place, held in holdings.items() if not held.adaptive}, "allotted")
    )
    bounds = [filtered(bag, delta, order) for bag in (beforehand, still_approved(holdings))]
    stop = filter_budget(account.budget, account.delta, order, delta)
    bounds.append(replace(bounds[0], epsilon=stop))
    return max(bounds, key=lambda bound: bound.epsilon)


def accrued(
    account: Account, holdings: Holdings, steps: Counts, delta: float, epsilon: Epsilon
) -> Bound:
    """What ``steps``, spent so far, take of the guarantee, by the rule that guarantees it.

    Informative: see ``guaranteed``. Once plans depend on results, a tight composition
    of what they happened to be bounds nothing.
    """
    if is_adaptive(holdings):
        return filtered(steps, delta, account.filter_order)
    return epsilon(steps, delta)


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
    later = _is_later(holdings)
    if later and not spent(holdings):  # nothing was seen yet, so that the order may still be chosen
        bag = dict(merged((*still_approved(holdings), *plan)))
        account = replace(account, filter_order=filter_order(bag, account.delta, account.budget))
    if share < account.budget:
        own = of_coordinator(holdings, coordinator)
        # A coordinator's first plan is one fixed bag, whatever others have spent before it.
        _approve(replace(account, budget=share), own, plan, later and bool(own))
    return _approve(account, holdings, plan, later)


def of_coordinator(holdings: Holdings, coordinator: str) -> Holdings:
    """What one coordinator's runs hold."""
    return {place: held for place, held in holdings.items() if held.coordinator == coordinator}


def excess(
    account: Account, holdings: Holdings, coordinator: str = "", share: float = math.inf
) -> dict[str, Counts]:
    """By run, what is left of approvals that cost more than the budget, or than a share.

    Empty where they cost no more than that. Takes seconds where a bag is new.
    """
    left = _left(holdings)
    if left and not _fits(account, holdings):
        return left
    own = of_coordinator(holdings, coordinator)
    left = _left(own)
    if left and len({run for run, _ in own}) < 2:  # one plan is a fixed bag, as in ``approve``
        own = {place: replace(held, adaptive=False) for place, held in own.items()}
    if left and share < account.budget and not _fits(replace(account, budget=share), own):
        return left
    return {}


def filtered(counts: Counts, delta: float, order: int) -> Bound:
    """The filter's figure, in the form of every other."""
    name = f"RDP filter of order {order}"
    value = filter_epsilon(dict(counts), delta, order)
    return Bound(value, delta, name, composition.version_of("RDP"), 0.0)


def fitting_noise(account: Account, holdings: Holdings, rate: float, steps: int) -> float:
    """The least noise multiplier with which so many more steps fit the account's budget.

    Raises AccountingError where none does.
    """
    adaptive = _is_later(holdings)
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


def _approve(account: Account, holdings: Holdings, plan: Counts, adaptive: bool) -> Approval:
    if adaptive:
        order = account.filter_order
        bound = filtered(merged((*still_approved(holdings), *plan)), account.delta, order)
    else:
        everything = merged((*approved(holdings), *plan))
        order = filter_order(dict(everything), account.delta, account.budget)
        bound = tight(everything, account.delta)
    if bound.epsilon > account.budget:
        raise BudgetError(
            f"account {account.name}: with this plan epsilon would be {bound.epsilon:.3f} "
            f"({bound.accountant}), above its budget of {account.budget:g}"
        )
    return Approval(bound, adaptive, order)


def _is_later(holdings: Holdings) -> bool:
    """Whether a plan that comes now may depend on results.

    So may what was given up, and then the bag is not the one that was fixed beforehand.
    """
    return bool(spent(holdings)) or any(held.voided for held in holdings.values())


def _fits(account: Account, holdings: Holdings) -> bool:
    try:
        return committed(account, holdings, account.delta, tight).epsilon <= account.budget
    except AccountingError:
        return False  # what no accountant bounds is within no budget


def _left(holdings: Holdings) -> dict[str, Counts]:
    """By run, the steps that may still be reserved."""
    runs = sorted({run for run, _ in holdings})
    left = {
        run: merged(
            (mechanism, held.left) for (of, mechanism), held in holdings.items() if of == run
        )
        for run in runs
    }
    return {run: steps for run, steps in left.items() if steps}
