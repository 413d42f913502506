"""What a policy allows and what follows from it, as plain values."""

import stat
from dataclasses import asdict
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from dpbitfit.accounting.composition import Mechanism, epsilon
from dpbitfit.errors import AccountingError
from dpbitfit_client.policy.limits import Limits
from dpbitfit_client.policy.policy import Dataset, Evaluation, Policy, SiteRules

HIGH_EPSILON = 10.0
LOW_NOISE = 0.5


def describe(policy: Policy) -> dict[str, Any]:
    """The policy and what follows from it, as plain values for JSON.

    Every epsilon is for adding or removing one unit. ``cost`` is None where no
    accountant bounds it.
    """
    site = policy.site
    return {
        "site": site.name,
        "ledger": _ledger(site),
        "socket": str(site.socket),
        "group": site.group,
        "state_directory": str(site.state_directory),
        "reply_slot_seconds": site.reply_slot_seconds,
        "round_seconds": site.round_seconds,
        "coordinators": dict(policy.coordinators),
        "models": {name: asdict(model) for name, model in policy.models.items()},
        "datasets": {name: _dataset(policy, one) for name, one in policy.datasets.items()},
        "warnings": _warnings(policy),
    }


def _dataset(policy: Policy, dataset: Dataset) -> dict[str, Any]:
    sharing = [one.name for one in _sharing(policy, dataset) if one is not dataset]
    return {
        "account": dataset.account,
        "shares_account_with": sharing,
        "records": dataset.source,
        "labels": dataset.labels,
        "unit": dataset.unit,
        "adjacency": f"add or remove one {dataset.unit}",
        "declared_size": dataset.declared_size,
        "epsilon": dataset.epsilon,
        "delta": dataset.delta,
        "most_epsilon": _most(policy, dataset),
        "coordinators": {
            name: _limits(limits, dataset.delta) for name, limits in dataset.limits.items()
        },
        "evaluation": dataset.evaluation and _evaluation(dataset.evaluation),
    }


def _sharing(policy: Policy, dataset: Dataset) -> list[Dataset]:
    """The data sets of its account, itself among them."""
    return [one for one in policy.datasets.values() if one.account == dataset.account]


def _most(policy: Policy, dataset: Dataset) -> float:
    """The most that any requests can spend of its account."""
    shares: dict[str, float] = {}
    for one in _sharing(policy, dataset):
        for who, limits in one.limits.items():
            shares[who] = max(limits.epsilon, shares.get(who, 0.0))
    # Shares of several hold at delta each: at one delta, only the common budget bounds them.
    return sum(shares.values(), 0.0) if len(shares) < 2 else dataset.epsilon


def _most_of_all(policy: Policy) -> tuple[float, float]:
    """Epsilon and delta that a person with records everywhere can lose in all."""
    found = {}
    for one in policy.datasets.values():
        found[one.account] = (_most(policy, one), one.delta)
        if one.evaluation is not None:
            found[one.evaluation_name] = (one.evaluation.epsilon, one.evaluation.delta)
    return sum(epsilon for epsilon, _ in found.values()), sum(delta for _, delta in found.values())


def _limits(limits: Limits, delta: float) -> dict[str, Any]:
    cost = _cost(limits.min_noise_multiplier, limits.max_sampling_rate, limits.max_steps, delta)
    over = cost is None or cost["epsilon"] > limits.epsilon
    return {
        **asdict(limits),
        "models": list(limits.models),
        "heads": list(limits.heads),
        "max_bias_distance": limits.max_bias_distance or None,
        "max_steps": limits.max_steps,
        "cost": cost,
        "binds": "budget" if over else "limits",
    }


def _evaluation(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "records": evaluation.source,
        "unit": evaluation.unit,
        "adjacency": f"add or remove one {evaluation.unit}",
        "declared_size": evaluation.declared_size,
        "epsilon": evaluation.epsilon,
        "delta": evaluation.delta,
        "metrics": {
            name: {"noise_multiplier": noise, "cost": _cost(noise, 1.0, 1, evaluation.delta)}
            for name, noise in evaluation.metrics.items()
        },
    }


def _cost(noise: float, rate: float, steps: int, delta: float) -> dict[str, Any] | None:
    try:
        bound = epsilon({Mechanism(noise, rate): steps}, delta)
    except AccountingError:
        return None
    return {"epsilon": bound.epsilon, "accountant": bound.accountant, "version": bound.version}


def _ledger(site: SiteRules) -> str:
    """Where the ledger is, without a password: a URL has two places for one."""
    if "://" not in site.ledger:
        return site.ledger
    return sa.make_url(site.ledger).set(query={}).render_as_string()


def _warnings(policy: Policy) -> list[str]:
    found = []
    if not policy.site.reply_slot_seconds:
        found.append("Replies are not held back (reply-slot-seconds): see Timing.")
    if _is_open(policy.site.ledger):
        found.append(
            f"Everybody on this machine may look into {Path(policy.site.ledger).parent}, where the "
            "ledger and its key lie: chmod o-rwx."
        )
    if len({one.account for one in policy.datasets.values()}) > 1:
        most, delta = _most_of_all(policy)
        found.append(
            f"The datasets {', '.join(policy.datasets)} do not all share one account: a person "
            f"with records in all of them can lose epsilon {most:g} in all, evaluations included, "
            f"at delta {delta:g}. Where the same people may be in several, let these name one "
            "account."
        )
    for name, dataset in policy.datasets.items():
        found += _budget_warnings(f"Dataset {name}", dataset)
        if dataset.evaluation:
            found.append(
                f"Dataset {name}: noised metrics on private records are allowed; whoever has "
                "records for training and for evaluation can lose epsilon "
                f"{_most(policy, dataset) + dataset.evaluation.epsilon:g} in all, at delta "
                f"{dataset.delta + dataset.evaluation.delta:g}."
            )
            found += _budget_warnings(f"The evaluation of {name}", dataset.evaluation)
        if not dataset.limits:
            found.append(f"Dataset {name}: no coordinator may train on it.")
        for who, limits in dataset.limits.items():
            if limits.min_noise_multiplier < LOW_NOISE:
                found.append(
                    f"Dataset {name}: {who} may ask for a noise multiplier of "
                    f"{limits.min_noise_multiplier:g}; below {LOW_NOISE:g} one step can cost more "
                    "than a whole plan should."
                )
    return found


def _budget_warnings(what: str, of: Dataset | Evaluation) -> list[str]:
    found = []
    if of.epsilon > HIGH_EPSILON:
        found.append(f"{what}: an epsilon of {of.epsilon:g} promises very little.")
    if of.delta > 1 / of.declared_size:
        found.append(
            f"{what}: delta {of.delta:g} is more than one in the declared size of "
            f"{of.declared_size:,}: it would allow one of them to be published whole."
        )
    return found


def _is_open(ledger: str) -> bool:
    try:
        return "://" not in ledger and bool(Path(ledger).parent.stat().st_mode & stat.S_IRWXO)
    except OSError:  # it is not there yet
        return False
