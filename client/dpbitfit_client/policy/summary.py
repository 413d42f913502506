"""What a policy allows and what follows from it, as plain values."""

import stat
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from dpbitfit.accounting.composition import epsilon
from dpbitfit.accounting.mechanism import Mechanism, merged
from dpbitfit.accounting.promise import empty_promise
from dpbitfit.errors import AccountingError
from dpbitfit.phases import SAMPLED
from dpbitfit_client.policy.dataset import Dataset, Evaluation, Records
from dpbitfit_client.policy.limits import Limits
from dpbitfit_client.policy.policy import Policy, SiteRules

HIGH_EPSILON = 10.0
LOW_NOISE = 0.5


def describe(policy: Policy) -> dict[str, Any]:
    """The policy and what follows from it, as plain values for JSON.

    Every epsilon is for adding or removing one unit. ``cost`` is None where no
    accountant bounds it.
    """
    site = policy.site.model_dump(mode="json")
    return {
        "site": site.pop("name"),
        "device": ", ".join(site.pop("devices")),
        **site,
        "ledger": _ledger(policy.site),
        "coordinators": {name: known.public_key for name, known in policy.coordinators.items()},
        "models": {
            name: {"name": name, **model.model_dump()} for name, model in policy.models.items()
        },
        "tasks": dict(policy.tasks),
        "datasets": {name: _dataset(policy, dataset) for name, dataset in policy.datasets.items()},
        "warnings": _warnings(policy),
    }


def _records(records: Records) -> dict[str, Any]:
    return {
        "records": records.source,
        "unit": records.unit,
        "adjacency": f"add or remove one {records.unit}",
        **records.model_dump(include={"declared_size", "epsilon", "delta"}),
    }


def _dataset(policy: Policy, dataset: Dataset) -> dict[str, Any]:
    return {
        **_records(dataset),
        "task": dataset.task,
        "account": dataset.account,
        "shares_account_with": [
            other.name for other in _sharing(policy, dataset) if other is not dataset
        ],
        "labels": dataset.labels,
        "most_epsilon": _most(policy, dataset),
        "coordinators": {
            name: _limits(limits, dataset.delta) for name, limits in dataset.limits.items()
        },
        "evaluation": dataset.evaluation and _evaluation(dataset.evaluation),
    }


def _sharing(policy: Policy, dataset: Dataset) -> list[Dataset]:
    """The data sets of its account, itself among them."""
    return [other for other in policy.datasets.values() if other.account == dataset.account]


def _most(policy: Policy, dataset: Dataset) -> float:
    """The most that any requests can spend of its account."""
    shares: dict[str, float] = {}
    for sharing in _sharing(policy, dataset):
        for coordinator, limits in sharing.limits.items():
            shares[coordinator] = max(limits.epsilon, shares.get(coordinator, 0.0))
    # Shares of several hold at delta each: at one delta, only the common budget bounds them.
    return sum(shares.values(), 0.0) if len(shares) < 2 else dataset.epsilon


def _most_of_all(policy: Policy) -> tuple[float, float]:
    """Epsilon and delta that a person with records everywhere can lose in all."""
    budgets = {}
    for dataset in policy.datasets.values():
        budgets[dataset.account] = (_most(policy, dataset), dataset.delta)
        if dataset.evaluation is not None:
            evaluation = dataset.evaluation
            budgets[dataset.evaluation_name] = (evaluation.epsilon, evaluation.delta)
    epsilons, deltas = zip(*budgets.values(), strict=True)
    return sum(epsilons), sum(deltas)


def _limits(limits: Limits, delta: float) -> dict[str, Any]:
    noise = limits.min_noise_multiplier
    steps = {Mechanism(noise, limits.max_sampling_rate): limits.max_steps}
    if set(limits.phases) - set(SAMPLED):
        # Each round may be one of these instead; with all of them the bound holds for any mixture.
        steps = dict(merged((*steps.items(), (Mechanism(noise, 1.0), limits.max_rounds))))
    cost = _cost(steps, delta)
    over = cost is None or cost["epsilon"] > limits.epsilon
    return {
        **limits.model_dump(mode="json"),
        "max_bias_distance": limits.max_bias_distance or None,
        "max_steps": limits.max_steps,
        "cost": cost,
        "binds": "budget" if over else "limits",
    }


def _evaluation(evaluation: Evaluation) -> dict[str, Any]:
    return {
        **_records(evaluation),
        "metrics": {
            name: {
                "noise_multiplier": metric.noise_multiplier,
                "cost": _cost({Mechanism(metric.noise_multiplier, 1.0): 1}, evaluation.delta),
            }
            for name, metric in evaluation.metrics.items()
        },
    }


def _cost(steps: dict[Mechanism, int], delta: float) -> dict[str, Any] | None:
    try:
        bound = epsilon(steps, delta)
    except AccountingError:
        return None
    return {"epsilon": bound.epsilon, "accountant": bound.accountant, "version": bound.version}


def _ledger(site: SiteRules) -> str:
    """Where the ledger is, without a password: a URL has two places for one."""
    if "://" not in site.ledger:
        return site.ledger
    return sa.make_url(site.ledger).set(query={}).render_as_string()


def _warnings(policy: Policy) -> list[str]:
    warnings = []
    if not policy.site.reply_slot_seconds:
        warnings.append("Replies are not held back (reply-slot-seconds): see Timing.")
    if _is_open(policy.site.ledger):
        warnings.append(
            f"Every user of this machine may look into {Path(policy.site.ledger).parent}, "
            "where the ledger and its key lie: chmod o-rwx."
        )
    if len({dataset.account for dataset in policy.datasets.values()}) > 1:
        most, delta = _most_of_all(policy)
        warnings.append(
            f"The datasets {', '.join(policy.datasets)} do not all share one account: a person "
            f"with records in all of them can lose epsilon {most:g} in all, evaluations included, "
            f"at delta {delta:g}. Where the same people may be in several, let these name one "
            "account."
        )
    for name, dataset in policy.datasets.items():
        warnings += _budget_warnings(f"Dataset {name}", dataset)
        if dataset.evaluation:
            warnings.append(
                f"Dataset {name}: noised metrics on private records are allowed; a person "
                "with records for training and for evaluation can lose epsilon "
                f"{_most(policy, dataset) + dataset.evaluation.epsilon:g} in all, at delta "
                f"{dataset.delta + dataset.evaluation.delta:g}."
            )
            warnings += _budget_warnings(f"The evaluation of {name}", dataset.evaluation)
        if not dataset.limits:
            warnings.append(f"Dataset {name}: no coordinator may train on it.")
        for coordinator, limits in dataset.limits.items():
            if limits.min_noise_multiplier < LOW_NOISE:
                warnings.append(
                    f"Dataset {name}: {coordinator} may ask for a noise multiplier of "
                    f"{limits.min_noise_multiplier:g}; below {LOW_NOISE:g} one step can cost more "
                    "than a whole plan should."
                )
    return warnings


def _budget_warnings(what: str, records: Records) -> list[str]:
    warnings = []
    if records.epsilon > HIGH_EPSILON:
        warnings.append(f"{what}: an epsilon of {records.epsilon:g} promises very little.")
    if warning := empty_promise(records.delta, records.declared_size):
        warnings.append(f"{what}: {warning}.")
    return warnings


def _is_open(ledger: str) -> bool:
    try:
        return "://" not in ledger and bool(Path(ledger).parent.stat().st_mode & stat.S_IRWXO)
    except OSError:  # it is not there yet
        return False
