"""``dpbitfit plan``: what the planner would do, what it costs and buys, before anything starts."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from dpbitfit import run_options
from dpbitfit.accounting import composition
from dpbitfit.data.labels import read_labels
from dpbitfit.errors import AccountingError, BudgetError, InputError
from dpbitfit.ledger.cli.options import chosen_accounts, progress
from dpbitfit.ledger.cli.terminal import bound_text, errors
from dpbitfit.ledger.forecast import Forecast, fits, forecast
from dpbitfit.ledger.reader import Reader
from dpbitfit.phases import DpZeroPhase, HeadDescent, Phase, SampledPhase, counts_of
from dpbitfit.planner import AUTO, Choices, PublicFacts, gaussian_mu, propose, why_no_biases
from dpbitfit.protocol.codec import FLOAT32
from dpbitfit.schema import Scalar, build, options
from dpbitfit.settings import OPTIONS

FACTS = ("labels", "sites", "declared-size", "target-epsilon", "delta", "noise", "ledger")
NOISE, DIRECTIONS = "noise-multiplier", "directions"
# A step on a record runs through the model three times: forward, and twice as much backward.
PASSES_OF_A_STEP = 3
SMALLEST_TARGET = 0.01  # epsilon that is looked for

Proposed = Callable[[float], tuple[Phase, ...]]  # by target epsilon

_KEYS = {*FACTS, NOISE, DIRECTIONS, *(option.key for option in options(Choices))}
_OWN = (
    click.Option(["--width"], type=int, default=384, help="Of the embeddings: the model's."),
    click.Option(["--biases"], type=int, default=23_424, help="How many values they have."),
    click.Option(
        ["--records-per-second"],
        type=float,
        default=100.0,
        help="That a site runs through the model once.",
    ),
    click.Option(["--account"], default="", help="Only this one of the ledger's accounts."),
    click.Option(["--json", "as_json"], is_flag=True, help="Print it as JSON."),
)


def _parameters() -> Iterator[click.Option]:
    others = {option.key for option in OPTIONS} - _KEYS
    instead: dict[str, tuple[Scalar, str]] = {
        "labels": ("", "The label set, or how many labels there are; empty: a fixed head."),
        "declared-size": (1000, "Public size of a site."),
        "ledger": ("", "A ledger: what the plan costs on each account there."),
    }
    yield from run_options.parameters(others, (), instead)
    yield from _OWN


def plan(
    width: int, biases: int, records_per_second: float, account: str, as_json: bool, **values: Any
) -> None:
    """Propose a plan from public facts: phases, noise, rates, what they cost and what they buy.

    Never looks at a record. ``simulate`` and ``run`` use it where nothing else is chosen. With a
    ledger it says what the plan costs on each account there and which noise would fit, and ends
    with a status other than 0 where it does not fit one.
    """
    config = run_options.config(values)
    labels = _count(config["labels"])
    if labels == 1 or config["declared-size"] < 1:
        raise InputError("a plan needs two labels or more, and a --declared-size of 1 or more")
    facts = PublicFacts(labels, width, config["sites"], config["sites"] * config["declared-size"])
    chosen = {key: value for key, value in config.items() if value}
    choices = build(Choices, config)
    base = build(choices.sampled, {**chosen, NOISE: config[NOISE] or 1.0})
    target = (config["target-epsilon"], config["delta"])

    def proposed(epsilon: float) -> tuple[Phase, ...]:
        return propose(facts, epsilon, config["delta"], choices, base, config[NOISE])

    phases = proposed(target[0])
    rows = [
        _row(phase, phases, facts, biases, records_per_second, config["delta"]) for phase in phases
    ]
    whole = composition.epsilon(dict(counts_of(phases)), config["delta"])
    forecasts: list[Forecast] = []
    if url := config["ledger"]:
        forecasts = _on_accounts(url, account, phases)
    if not config[NOISE]:
        forecasts = [_with_target(url, each, proposed, target[0]) for each in forecasts]
    accounts = [_described(each) for each in forecasts]
    by_itself = choices.phases == AUTO and labels
    no_biases = why_no_biases(facts, gaussian_mu(*target)) if by_itself else ""
    result = {
        "phases": rows,
        "no_biases": no_biases,
        "epsilon": whole.epsilon,
        "accounts": accounts,
    }
    if as_json:
        click.echo(json.dumps(result, indent=2))
    else:
        _print(result, forecasts, config["delta"], whole.accountant, not config[NOISE])
    if over := [str(each.account.name) for each in forecasts if not each.fits]:
        raise BudgetError(f"the plan does not fit the budget of {', '.join(over)}")


command = click.Command("plan", callback=plan, params=list(_parameters()), help=plan.__doc__)


def _count(labels: str) -> int:
    return int(labels) if labels.isdigit() else len(read_labels(labels))


def _row(
    phase: Phase,
    phases: tuple[Phase, ...],
    facts: PublicFacts,
    biases: int,
    records_per_second: float,
    delta: float,
) -> dict[str, Any]:
    """A phase's own figures; bytes are of the noised values that a site sends."""
    size = facts.units // facts.sites
    trained = facts.labels * facts.width
    if phase.trains != "head":
        trained = biases + (trained if phase.trains == "all" else 0)
    if isinstance(phase, SampledPhase):
        passes = _passes(phase) * phase.steps * phase.sampling_rate * size
    else:
        passes = size if phase is phases[0] else 0  # its features are kept for the next
    return {
        "phase": phase.kind,
        "trains": phase.trains,
        "rounds": phase.rounds,
        "steps": phase.steps,
        "sampling_rate": phase.sampling_rate,
        "noise_multiplier": phase.noise.multiplier,
        "learning_rate": getattr(getattr(phase, "optimizer", None), "learning_rate", None),
        "epsilon_alone": composition.epsilon(dict(phase.counts), delta).epsilon,
        "bytes_up": FLOAT32.bytes_per_value * phase.released_size(trained) * phase.rounds,
        "minutes": passes / records_per_second / 60,
        "buys": _gain(phase, facts),
    }


def _passes(phase: SampledPhase) -> float:
    """How often a step runs through the model with each of its records."""
    if isinstance(phase, DpZeroPhase):
        return 2 * phase.estimator.directions
    return PASSES_OF_A_STEP


def _gain(phase: Phase, facts: PublicFacts) -> str:
    """What a phase does, with how much noise, in words."""
    if isinstance(phase, SampledPhase):
        noise = phase.noise.multiplier / (phase.sampling_rate * facts.units / facts.sites)
        if isinstance(phase, DpZeroPhase):
            return (
                f"moves the features from {phase.estimator.directions} noised numbers a step, by "
                "forward passes alone; slower than biases, for models and links that allow no more"
            )
        return (
            "moves the features themselves: more where labels are few; a step's mean gradient, "
            f"{phase.clipping.words}, has noise of {noise:.2g} clipping norms in each value"
        )
    if isinstance(phase, HeadDescent):
        return "draws the classes apart where their means alone leave them close"
    noise = phase.noise.multiplier * math.sqrt(facts.sites * facts.width)
    share = noise * facts.labels / facts.units
    return f"the mean of each class; of a class of average size with {share:.0%} noise in length"


def _on_accounts(url: str, account: str, phases: tuple[Phase, ...]) -> list[Forecast]:
    """The plan beside all that is there; what would fit is asked of its last phase's noise."""
    *others, last = phases
    beside = counts_of(others)
    steps = (last.sampling_rate, last.steps, last.noise.multiplier)
    with Reader(url) as reader:
        chosen = progress(chosen_accounts(reader, account), "computing")
        return [forecast(reader, each, *steps, beside) for each in chosen]


def _with_target(url: str, cost: Forecast, proposed: Proposed, refused: float) -> Forecast:
    """Where a proposed plan does not fit, with the largest target epsilon that would.

    To two digits, and from 0.01 on. Some seconds for each that is tried.
    """
    if cost.fits:
        return cost
    fitting = 0.0
    with Reader(url) as reader, errors.status("looking for a target epsilon that fits"):
        while True:
            middle = float(f"{(fitting + refused) / 2:.2g}")
            if middle in (fitting, refused) or middle < SMALLEST_TARGET:
                return replace(cost, fitting_target_epsilon=fitting or None)
            held = False
            with suppress(AccountingError):  # no noise is enough for a target as small
                held = fits(reader, cost.account, counts_of(proposed(middle)))
            fitting, refused = (middle, refused) if held else (fitting, middle)


def _described(cost: Forecast) -> dict[str, Any]:
    described: dict[str, Any] = {
        "account": str(cost.account.name),
        "budget": cost.account.budget,
        "delta": cost.account.delta,
        "fits": cost.fits,
        "fitting_noise_multiplier": cost.fitting_noise_multiplier,
        "fitting_target_epsilon": cost.fitting_target_epsilon,
    }
    if cost.approved:
        described["approved"] = dict(vars(cost.approved))
    if price := cost.price:
        described["alone"] = dict(vars(price.alone))
        described["guaranteed_before"] = price.before.guaranteed.describe()
        described["guaranteed"] = price.after.guaranteed.describe()
    return described


def _in_words(cost: Forecast, phase: str) -> Iterator[str]:
    """The lines of an account; ``phase`` is the plan's last, "" where its noise is calibrated."""
    account, fitting = cost.account, cost.fitting_noise_multiplier
    fits = "fits" if cost.fits else "does not fit"
    if cost.approved:
        yield (
            f"account {account.name}: with this plan, all that is approved takes "
            f"{bound_text(cost.approved)}, of a budget of {account.budget:g}: it {fits}"
        )
    if cost.price:
        yield str(cost.price)
    elif not phase and cost.fitting_target_epsilon is None:
        yield f"no --target-epsilon from {SMALLEST_TARGET:g} on fits"
    elif not phase:
        yield f"with --target-epsilon {cost.fitting_target_epsilon:g} it fits"
    elif fitting is None:
        yield f"no noise multiplier of {phase} makes it fit"
    else:
        yield f"with noise multiplier {fitting:g} for {phase} it fits"


def _print(
    result: Mapping[str, Any],
    forecasts: list[Forecast],
    delta: float,
    accountant: str,
    calibrated: bool,
) -> None:
    printed = Table(
        *("phase", "trains", "rounds", "steps", "rate", "noise", "lr"),
        *("epsilon", "kB up", "minutes"),
        box=None,
        caption=f"epsilon: of each phase alone; together epsilon {result['epsilon']:.3f} "
        f"at delta {delta:g} ({accountant})",
    )
    for row in result["phases"]:
        rate = row["learning_rate"]
        printed.add_row(
            row["phase"],
            row["trains"],
            str(row["rounds"]),
            str(row["steps"]),
            f"{row['sampling_rate']:g}",
            f"{row['noise_multiplier']:g}",
            "" if rate is None else f"{rate:g}",
            f"{row['epsilon_alone']:.2f}",
            f"{row['bytes_up'] / 1e3:,.0f}",
            f"{row['minutes']:.1f}",
        )
    console = Console()
    console.print(printed)
    for row in result["phases"]:
        console.print(f"{row['phase']}: {row['buys']}", highlight=False)
    if result["no_biases"]:
        console.print(f"no biases: {result['no_biases']}", highlight=False)
    for each in forecasts:
        for line in _in_words(each, "" if calibrated else result["phases"][-1]["phase"]):
            console.print(line, highlight=False, markup=False)
