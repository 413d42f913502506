"""What an account's budget still allows.

A plan is a composition of mechanisms, approved as a whole. Compositions that were
approved before any result was seen are fixed: in any order, interleaved, stopped
early, they cost at most what the tight accountants say of all of them together.
A plan chosen later is adaptive: it may depend on what was seen; then only a filter on
the Rényi divergence of one order may decide, and the order is that of the first plans
(Feldman and Zrnic 2021, arXiv 2008.11193).

A budget or a share that is lowered below what was approved takes back what is
left of the approvals (``excess``), so that whole numbers go on to decide.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from dpbitfit.accounting import composition
from dpbitfit.accounting.calibration import calibrate
from dpbitfit.accounting.composition import Bound
from dpbitfit.accounting.mechanism import Counts, checked, merged
from dpbitfit.accounting.renyi import filter_budget, filter_epsilon, filter_order
from dpbitfit.errors import AccountingError, BudgetError
from dpbitfit.ledger.account import Account
from dpbitfit.ledger.fold import Allotments, total

Epsilon = Callable[[Counts, float], Bound]


@dataclass(frozen=True)
class Approval:
    """A plan that fits: what the account is committed to with it, and by which rule."""

    bound: Bound
    adaptive: bool
    order: int


def spent(allotments: Allotments) -> Counts:
    """Steps that were made, or may have been made."""
    return checked(total(allotments, "reserved", "committed"))


def approved(allotments: Allotments) -> Counts:
    """Every step that was ever approved."""
    return checked(total(allotments, "allotted"))


def still_approved(allotments: Allotments) -> Counts:
    """Every step that was approved and not given up."""
    given_up = total(allotments, "voided")
    return checked({m: n - given_up[m] for m, n in approved(allotments)})


def is_adaptive(allotments: Allotments) -> bool:
    """Whether a plan among these was chosen after results may have been seen."""
    return any(allotment.adaptive for allotment in allotments.values())


def tight(counts: Counts, delta: float) -> Bound:
    """The smallest bound on a fixed composition; seconds when new, then cached."""
    return composition.epsilon(dict(counts), delta)


def committed(account: Account, allotments: Allotments, delta: float, epsilon: Epsilon) -> Bound:
    """What everything approved takes of a budget, by the rule that approved it.

    ``epsilon`` bounds a fixed composition, which stays as it was; a filter does not
    count what was given up.
    """
    if is_adaptive(allotments):
        return filtered(still_approved(allotments), delta, account.filter_order)
    return epsilon(approved(allotments), delta)


def guaranteed(account: Account, allotments: Allotments, delta: float, epsilon: Epsilon) -> Bound:
    """The bound on all that was and will be released, whatever was seen in between.

    A fixed composition: the bound on all of it, used or not. Once later plans depend
    on results it is the budget: a filter bounds what is released until it
    stops (Feldman and Zrnic 2021, theorem 4.3), not what was spent at a moment that
    results may have chosen; a running bound would be an odometer, which costs more
    (Rogers, Roth, Ullman and Vadhan 2016, arXiv 1605.08294). It is more than the budget
    where more was approved before the results, or under a higher budget.
    """
    if not is_adaptive(allotments):
        return epsilon(approved(allotments), delta)
    order = account.filter_order
    beforehand = checked(
        total(
            {place: allotment for place, allotment in allotments.items() if not allotment.adaptive},
            "allotted",
        )
    )
    bounds = [filtered(counts, delta, order) for counts in (beforehand, still_approved(allotments))]
    stop = filter_budget(account.budget, account.delta, order, delta)
    bounds.append(replace(bounds[0], epsilon=stop))
    return max(bounds, key=lambda bound: bound.epsilon)


def accrued(
    account: Account, allotments: Allotments, steps: Counts, delta: float, epsilon: Epsilon
) -> Bound:
    """What ``steps``, spent so far, take of the guarantee, by the rule that guarantees it.

    Informative: see ``guaranteed``. Once plans depend on results, a tight composition
    of what they happened to be bounds nothing.
    """
    if is_adaptive(allotments):
        return filtered(steps, delta, account.filter_order)
    return epsilon(steps, delta)


def approve(
    account: Account,
    allotments: Allotments,
    plan: Counts,
    coordinator: str = "",
    share: float = math.inf,
) -> Approval:
    """Approve one more plan, or raise BudgetError with the figure.

    ``share`` is the part of the budget that all plans of ``coordinator`` may cost.
    """
    later = _is_later(allotments)
    if later and not spent(allotments):  # nothing was seen yet: the order may still be chosen
        counts = dict(merged((*still_approved(allotments), *plan)))
        order = filter_order(counts, account.delta, account.budget)
        account = replace(account, filter_order=order)
    if share < account.budget:
        own = of_coordinator(allotments, coordinator)
        # A coordinator's first plan is a fixed composition, whatever others have spent before.
        _approve(replace(account, budget=share), own, plan, later and bool(own))
    return _approve(account, allotments, plan, later)


def of_coordinator(allotments: Allotments, coordinator: str) -> Allotments:
    """What one coordinator's runs hold."""
    return {
        place: allotment
        for place, allotment in allotments.items()
        if allotment.coordinator == coordinator
    }


def remaining(allotments: Allotments) -> dict[str, Counts]:
    """By run, the steps that may still be reserved."""
    runs = sorted({run for run, _ in allotments})
    left = {
        run: merged(
            (mechanism, allotment.left)
            for (owner, mechanism), allotment in allotments.items()
            if owner == run
        )
        for run in runs
    }
    return {run: steps for run, steps in left.items() if steps}


def excess(
    account: Account, allotments: Allotments, coordinator: str = "", share: float = math.inf
) -> dict[str, Counts]:
    """By run, what is left of approvals that cost more than the budget, or than a share.

    Empty where they cost no more than that. Takes seconds where the counts are new.
    """
    left = remaining(allotments)
    if left and not _fits(account, allotments):
        return left
    own = of_coordinator(allotments, coordinator)
    left = remaining(own)
    if left and len({run for run, _ in own}) < 2:  # a fixed composition, as in ``approve``
        own = {place: replace(allotment, adaptive=False) for place, allotment in own.items()}
    if left and share < account.budget and not _fits(replace(account, budget=share), own):
        return left
    return {}


def filtered(counts: Counts, delta: float, order: int) -> Bound:
    """The filter's figure, in the form of every other."""
    name = f"RDP filter of order {order}"
    value = filter_epsilon(dict(counts), delta, order)
    return Bound(value, delta, name, composition.version_of("RDP"), 0.0)


def fitting_noise(
    account: Account, allotments: Allotments, rate: float, steps: int, beside: Counts = ()
) -> float:
    """The least noise multiplier with which ``steps`` more fit the account's budget.

    ``beside`` them stand other steps of the same plan. Raises AccountingError where none does.
    """
    adaptive = _is_later(allotments)
    return calibrate(
        account.budget,
        account.delta,
        rate,
        steps,
        merged((*(still_approved if adaptive else approved)(allotments), *beside)),
        account.filter_order if adaptive else None,
    )


def what_fits(account: Account, allotments: Allotments, plan: Counts) -> str:
    """In words, what would fit in place of a plan that does not; takes seconds."""
    if len(plan) != 1:
        return "dpbitfit plan --ledger says what fits"
    mechanism, steps = plan[0]
    rate = mechanism.sampling_rate
    try:
        sigma = fitting_noise(account, allotments, rate, steps)
    except AccountingError:
        return f"no noise multiplier makes {steps} more steps fit"
    return f"{steps} steps at rate {rate:g} fit with noise multiplier {sigma:g}"


def _approve(account: Account, allotments: Allotments, plan: Counts, adaptive: bool) -> Approval:
    if adaptive:
        order = account.filter_order
        bound = filtered(merged((*still_approved(allotments), *plan)), account.delta, order)
    else:
        everything = merged((*approved(allotments), *plan))
        order = filter_order(dict(everything), account.delta, account.budget)
        bound = tight(everything, account.delta)
    if bound.epsilon > account.budget:
        raise BudgetError(
            f"account {account.name}: with this plan epsilon would be {bound.epsilon:.3f} "
            f"({bound.accountant}), above its budget of {account.budget:g}"
        )
    return Approval(bound, adaptive, order)


def _is_later(allotments: Allotments) -> bool:
    """Whether a plan that comes now may depend on results.

    So may what was given up, and then the composition is not the one that was fixed.
    """
    return bool(spent(allotments)) or any(allotment.voided for allotment in allotments.values())


def _fits(account: Account, allotments: Allotments) -> bool:
    try:
        return committed(account, allotments, account.delta, tight).epsilon <= account.budget
    except AccountingError:
        return False  # what no accountant bounds is within no budget
