"""A policy in plain words, as a data-protection officer would read it."""

import math
import textwrap
from collections.abc import Iterable
from typing import Any

from dpbitfit.phases import SAMPLED
from dpbitfit_client.policy.limits import LEAST_DISTANCE, MOST_DISTANCE
from dpbitfit_client.policy.policy import Policy
from dpbitfit_client.policy.summary import describe

WIDTH = 88


def explain(policy: Policy) -> str:
    """The policy in plain words."""
    facts = describe(policy)
    keys = (f"{name}: the holder of the key {key}." for name, key in facts["coordinators"].items())
    tasks = [f"{name}: {path}, code of this site." for name, path in facts["tasks"].items()]
    return (
        "\n\n".join(
            "\n".join(lines)
            for lines in (
                [f"What site {facts['site']} allows"],
                _paragraph(_site_words(facts)),
                ["Coordinators", *_bullets(keys)],
                *([f"Dataset {name}", *_dataset_words(d)] for name, d in facts["datasets"].items()),
                ["Models", *_bullets(map(_model_words, facts["models"].values()))],
                ["Tasks of this site's own", *_bullets(tasks or ["None."])],
                ["What may leave this site", *_bullets(_leaves(facts))],
                ["What can never leave it", *_bullets(NEVER)],
                ["Timing", *_paragraph(_timing(facts["reply_slot_seconds"]))],
                ["Warnings", *_bullets(facts["warnings"] or ["None."])],
            )
        )
        + "\n"
    )


def _site_words(facts: dict[str, Any]) -> str:
    return (
        "A coordinator may do what is said here and nothing else. Only members of the group "
        f"{facts['group']} reach the guard, at {facts['socket']}; every request is recorded "
        f"in {facts['ledger']} before a record is touched, and may work for at most "
        f"{facts['round_seconds']:g} seconds. By what it keeps in {facts['state_directory']} "
        "the guard notices that this ledger was lost or restored, and stops. Models compute on "
        f"{_device_words(facts['device'])}{_precision_words(facts['precision'])}, whatever a "
        "coordinator asks."
    )


def _precision_words(precision: str) -> str:
    return "" if precision == "float32" else f", and their layers multiply in {precision}"


def _device_words(device: str) -> str:
    split = ", each model split over those joined by '+'" if "+" in device else ""
    if "," not in device:
        return f"the device {device!r}{split}"
    return (
        f"the devices {device}{split}, which share the records of each step that samples: on all "
        "but the first a process of the guard's own, which holds the records too and listens "
        "nowhere"
    )


NEVER = (
    "Records, texts and labels of records, and the names in a column of persons.",
    "How many records or persons there are; the declared sizes stand for that.",
    "Whether a record can be used: the guard reads all of them before it answers anything, and "
    "does not start where one cannot.",
    "Losses and gradients of training, and any metric that is not listed above.",
    "What went wrong in words: a refusal is one of a few fixed codes.",
)


def _dataset_words(dataset: dict[str, Any]) -> list[str]:
    unit, delta = dataset["unit"], dataset["delta"]
    others = dataset["shares_account_with"]
    them = f"them and on {', '.join(others)} together (one account)" if others else "them"
    lines = _paragraph(
        f"The records of {dataset['records']}, declared as {dataset['declared_size']:,} units, for "
        f"the task {dataset['task']}. "
        f"{_unit_words(unit)} All that is trained on {them} under this policy may cost at "
        f"most epsilon {dataset['most_epsilon']:g} at delta {delta:g} ({dataset['adjacency']}), "
        "whatever coordinators ask, and how often: the ledger keeps count, and the budget is the "
        "cap. Where it, or a share of it, is lowered, what was approved above it and is not spent "
        "is taken back; what was spent before stays spent, also where that is more."
    )
    lines += _bullets(
        _limits_words(name, limits, delta) for name, limits in dataset["coordinators"].items()
    )
    if not dataset["coordinators"]:
        lines += _bullets(["No coordinator may train on it."])
    return lines + _bullets([_evaluation_words(dataset["evaluation"])])


def _unit_words(unit: str) -> str:
    if unit == "record":
        return "Protected is each record by itself; a person with many is protected less."
    return f"Protected are all records together that have the same {unit}."


def _limits_words(coordinator: str, limits: dict[str, Any], delta: float) -> str:
    cost = limits["cost"]
    figure = (
        f"epsilon {_rounded_up(cost['epsilon'])} ({cost['accountant']}, {cost['version']})"
        if cost
        else "more than any accountant bounds"
    )
    binds = (
        "more than its share, so that the budget binds first: such a plan is refused"
        if limits["binds"] == "budget"
        else "within its share, so that the limits bind first: further plans may follow until the "
        "share is spent"
    )
    distance = (
        f"{limits['max_bias_distance']:g}"
        if limits["max_bias_distance"]
        else "ten times what honest training by the plan can reach (at least "
        f"{LEAST_DISTANCE:g}, at most {MOST_DISTANCE:g})"
    )
    return (
        f"{coordinator} may train, for at most epsilon {limits['epsilon']:g} over all its plans. "
        f"One plan has a noise multiplier of at least {limits['min_noise_multiplier']:g}, samples "
        f"at most {limits['max_sampling_rate']:g} of the units a step and makes at most "
        f"{limits['max_rounds']:,} rounds of {limits['max_steps_per_round']:,} steps; at these "
        f"extremes it would cost {figure} at delta {delta:g}, {binds}. "
        f"Phases: {', '.join(limits['phases'])}{_full_batches(limits['phases'])}. "
        f"{_directions(limits)}"
        f"{_clipping_words(limits['clippings'])}"
        f"Models: {', '.join(limits['models'])}; heads: {', '.join(limits['heads'])}; "
        f"texts of at most {limits['max_length']:,} tokens. A round may start from any biases of "
        f"which none is further from its pretrained value than {distance}."
    )


def _full_batches(phases: Iterable[str]) -> str:
    full = [phase for phase in phases if phase not in SAMPLED]
    return f"; a round of {' or '.join(full)} is one step with all units" if full else ""


def _clipping_words(clippings: Iterable[str]) -> str:
    adaptive = (
        "; adaptive norms follow noised counts of whose gradients were cut, for which the steps' "
        "own noise pays"
    )
    return f"Clipping: {', '.join(clippings)}{adaptive if 'adaptive' in clippings else ''}. "


def _directions(limits: dict[str, Any]) -> str:
    if "dp-zero" not in limits["phases"]:
        return ""
    return (
        f"A step of dp-zero looks along at most {limits['max_directions']:,} public directions, "
        "and reads each of its records twice for each. "
    )


def _evaluation_words(evaluation: dict[str, Any] | None) -> str:
    if evaluation is None:
        return "Nothing is ever evaluated on private records."
    metrics = ", ".join(_metric_words(*metric) for metric in evaluation["metrics"].items())
    return (
        "A coordinator that may train may also ask how a model does on "
        f"{evaluation['records']}, declared as {evaluation['declared_size']:,} units: {metrics}. "
        f"{_unit_words(evaluation['unit'])} All evaluations together cost at most epsilon "
        f"{evaluation['epsilon']:g} at delta {evaluation['delta']:g} ({evaluation['adjacency']}); "
        "this is a budget of its own, and a person with records in both sets can lose both."
    )


def _metric_words(name: str, metric: dict[str, Any]) -> str:
    cost = metric["cost"]
    each = f"epsilon {_rounded_up(cost['epsilon'])}" if cost else "more than any accountant bounds"
    return f"{name} with noise multiplier {metric['noise_multiplier']:g}, {each} each time"


def _model_words(model: dict[str, Any]) -> str:
    return f"{model['name']}: {model['path']}, if its files have the digest {model['digest']}."


def _leaves(facts: dict[str, Any]) -> list[str]:
    datasets = facts["datasets"]
    heads = {
        head
        for dataset in datasets.values()
        for limits in dataset["coordinators"].values()
        for head in limits["heads"]
    }
    what = "biases and of its head" if "trained" in heads else "biases"
    phases = {
        phase
        for dataset in datasets.values()
        for limits in dataset["coordinators"].values()
        for phase in limits["phases"]
    }
    change = [f"The change of the model's {what} over one round, with noise in it."]
    if phases and "biases" not in phases:
        change = []
    zero = [
        f"In a phase of dp-zero, instead of how the model's {what} change: how the losses change "
        "along public random directions, a few numbers a step for all sampled units together, "
        "with noise in them."
    ]
    if "dp-zero" not in phases:
        zero = []
    sums = ["In a phase of the head, a sum over all units instead, with noise in it."]
    if "trained" not in heads or not phases - set(SAMPLED):
        sums = []
    metrics = [
        f"The {metric} on the evaluation records of {name}, with noise of multiplier "
        f"{noise['noise_multiplier']:g}."
        for name, dataset in datasets.items()
        for metric, noise in (dataset["evaluation"] or {"metrics": {}})["metrics"].items()
    ]
    return [
        *change,
        *zero,
        *sums,
        "Signed statements: the names of site, dataset and unit, the declared size, digests of "
        "model and plan, the version, what the ledger counts as spent, and codes of refusal.",
        *metrics,
    ]


def _timing(slot: float) -> str:
    if slot:
        return (
            f"A reply leaves at a whole multiple of {slot:g} seconds after its request, and a "
            "refusal that looked nothing up at once. Work that takes longer than that shows in how "
            "many multiples passed: choose one that every round fits in."
        )
    return (
        "A reply leaves when it is ready. How long a round took depends on how many records were "
        "sampled and how long they are, and a coordinator can measure it; no epsilon covers that. "
        "Set reply-slot-seconds to hold replies back."
    )


def _rounded_up(bound: float) -> str:
    """An upper bound that is still one when it has been written with three decimals."""
    return f"{math.ceil(bound * 1000) / 1000:,.3f}"


def _paragraph(text: str) -> list[str]:
    return _wrapped(text, "  ")


def _bullets(texts: Iterable[str]) -> list[str]:
    return [line for text in texts for line in _wrapped(text, "  - ")]


def _wrapped(text: str, start: str) -> list[str]:
    # Words stay whole: a digest or a path must be found by searching for it.
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_long_words=False,
        break_on_hyphens=False,
    )
