"""From public facts alone: which phases a plan has, how the budget is split, rates and noise.

Deterministic, and never looking at a record: every trial on private data would cost
budget, so the rules must be right without one. They and how flat their optimum is are
in ``docs/planning.md``; the loss is split in ``mu^2``, which adds up over Gaussian
mechanisms (Dong, Roth and Su 2022, "Gaussian Differential Privacy", corollaries 1 and 3.3).
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr

from dpbitfit.accounting.calibration import calibrate, rounded_up
from dpbitfit.engine.clipping import CLIPPINGS, AutomaticClipping
from dpbitfit.engine.noise import Noise
from dpbitfit.engine.optimizers import Sgd
from dpbitfit.errors import InputError
from dpbitfit.phases import (
    PHASES,
    SAMPLED,
    BiasPhase,
    ClassSums,
    DpZeroPhase,
    HeadDescent,
    Phase,
    counts_of,
)
from dpbitfit.schema import Part, options
from dpbitfit.validate import described

AUTO, DP_ZERO = "auto", "dp-zero"
HEAD_ROUNDS, BIAS_ROUNDS, BIAS_STEPS = 20, 12, 60
SAMPLING_RATE = 0.15  # of biases and head together
# Of one site. Adam divides by a site's own noise, of which the mean over sites has less.
LEARNING_RATE, FASTER_BY_SITES = 1e-2, 2.0
ZERO_RATE, ZERO_RATE_WITH_HEAD = 0.02, 0.05  # of dp-zero: a value moves as far as by Adam
SUMS_SHARE = 0.3  # of the head's mu^2
HEAD_SHARE_A_LABEL, LARGEST_HEAD_SHARE = 0.05, 0.5  # of the plan's mu^2, beside biases
UNITS_A_LABEL = 300  # from which on biases gain more than the head loses
# As ``_noise``: with more of it the biases gain less than the head loses.
LARGEST_NOISE = 1.2e-3
HEAD_NOISE = 1.7e-3  # the same of the head's share alone, where that needs no more than the largest
ROW_NOISE = 0.6  # norm of the noise that all steps together leave in a row of the head
# Beyond this the head's descent overshoots: with labels of one share, a logit scale of 20, and
# features of whose squared length a fifth lies in one direction.
LARGEST_RATE_A_LABEL = 0.5


class Choices(Part):
    """What a user may choose of a plan's phases; the planner chooses what is 0 or empty."""

    phases: Annotated[
        str, described(f"Phases, separated by commas: {', '.join(PHASES)}; auto: the planner's.")
    ] = AUTO
    most_rounds: Annotated[int, described("Rounds that one is ready for; 0: any.", ge=0)] = 0
    rounds: Annotated[
        int, described("Rounds of the phase of biases, or dp-zero; 0: the planner's.", ge=0)
    ] = 0
    steps_per_round: Annotated[
        int, described("Noisy steps of each of its rounds; 0: the planner's.", ge=0)
    ] = 0
    sampling_rate: Annotated[
        float, described("Poisson sampling rate of its steps; 0: the planner's.", ge=0, le=1)
    ] = 0.0
    learning_rate: Annotated[
        float, described("Its largest learning rate; 0: the planner's.", ge=0)
    ] = 0.0
    schedule: Annotated[
        Literal["", "linear", "warm-up"],
        described("How it changes over the steps; empty: the planner's."),
    ] = ""
    clipping: Annotated[
        Literal["", *CLIPPINGS],  # type: ignore[valid-type]
        described("Its clipping; empty: the planner's."),
    ] = ""
    clipping_norm: Annotated[float, described("Its clipping norm; 0: the planner's.", ge=0)] = 0.0

    @property
    def kinds(self) -> list[str]:
        """The kinds of phases that are named."""
        return [kind.strip() for kind in self.phases.split(",")]

    @property
    def sampled(self) -> "type[BiasPhase] | type[DpZeroPhase]":
        """The phase that samples: of biases, unless dp-zero is named in its place."""
        return DpZeroPhase if DP_ZERO in self.kinds else BiasPhase


@dataclass(frozen=True)
class PublicFacts:
    """What a planner may know: of a head with ``labels`` rows [K] of ``width`` d, and sites.

    ``units`` is the sum of the sites' declared sizes. Without a head that trains, ``labels``
    is 0.
    """

    labels: int
    width: int
    sites: int
    units: int


_OF_ALL = ("phases", "most-rounds")  # what is chosen for all phases together
NO_HEAD = PublicFacts(labels=0, width=0, sites=1, units=0)


def propose(
    facts: PublicFacts,
    epsilon: float,
    delta: float,
    choices: Choices,
    base: BiasPhase | DpZeroPhase,
    noise_multiplier: float = 0.0,
) -> tuple[Phase, ...]:
    """The phases of a plan that costs at most ``epsilon`` at ``delta``.

    ``base`` is the phase of biases, or dp-zero, as chosen, whose fields that are 0 or empty in
    ``choices`` are replaced; a ``noise_multiplier`` other than 0 is its own, and where it comes
    last nothing is calibrated. Raises InputError for phases that cannot be and for what is chosen
    of a phase that the plan has not, AccountingError for a target that no noise reaches.
    """
    mu = gaussian_mu(epsilon, delta)
    kinds = _kinds(facts, choices, mu)
    if base.kind not in kinds and (chosen := _chosen(choices, noise_multiplier)):
        raise InputError(
            f"{', '.join(map(repr, chosen))}: of a phase of biases, and this plan has none: name "
            "it in 'phases'"
        )
    rounds = _rounds(kinds, choices)
    sampled = _sampled(base, choices, rounds[base.kind], facts)
    share = _head_share(facts, mu) if base.kind in kinds else 1.0
    phases: list[Phase] = []
    for number, kind in enumerate(kinds):
        last = number == len(kinds) - 1
        if kind == base.kind:
            phases.append(sampled)
        else:
            mu_squared = share * mu**2 * _part(kind, kinds)
            phases.append(_head_phase(kind, facts, mu_squared, rounds[kind], base.noise))
        if last and not (kind == base.kind and noise_multiplier):
            phases[-1] = _calibrated(phases, epsilon, delta)
    return tuple(phases)


def why_no_biases(facts: PublicFacts, mu: float) -> str:
    """Why biases would gain less than the head loses, in a plan that takes ``mu``; else empty."""
    if facts.units < UNITS_A_LABEL * facts.labels:
        return f"the sites declare fewer than {UNITS_A_LABEL} units a label"
    if _noise(facts, mu) > LARGEST_NOISE:
        return "with so much noise on so few units they would lose more than they learn"
    return ""


def _chosen(choices: Choices, noise_multiplier: float) -> list[str]:
    """What is chosen of the phase that samples."""
    keys = [option.key for option in options(Choices) if option.key not in _OF_ALL]
    chosen = [key for key in keys if getattr(choices, key.replace("-", "_"))]
    return [*chosen, *(["noise-multiplier"] if noise_multiplier else [])]


def _kinds(facts: PublicFacts, choices: Choices, mu: float) -> list[str]:
    if choices.phases != AUTO:
        kinds = choices.kinds
        unknown = [kind for kind in kinds if kind not in PHASES]
        if unknown or len(set(kinds)) < len(kinds):
            raise InputError(
                f"'phases' must be auto, or some of {', '.join(PHASES)}, each once, "
                f"not {choices.phases!r}"
            )
        if set(kinds) >= set(SAMPLED):
            raise InputError("'phases' may name biases or dp-zero, not both")
        if not facts.labels and set(kinds) - set(SAMPLED):
            raise InputError("a phase of 'phases' trains the head, which is fixed: head=trained")
        return kinds
    if not facts.labels:
        return ["biases"]
    kinds = ["class-sums", "head", *([] if why_no_biases(facts, mu) else ["biases"])]
    return kinds[: choices.most_rounds or None]  # each needs one, and the first buy most


def _rounds(kinds: list[str], choices: Choices) -> dict[str, int]:
    """Rounds of each kind of phase, within those that the user is ready for."""
    sampled = choices.rounds or BIAS_ROUNDS
    rounds = {"class-sums": 1, "head": HEAD_ROUNDS, **dict.fromkeys(SAMPLED, sampled)}
    most = choices.most_rounds
    if not most or sum(rounds[kind] for kind in kinds) <= most:
        return rounds
    if most < len(kinds):
        raise InputError(f"'most-rounds' is {most}, and the {len(kinds)} phases need one each")
    left = most - ("class-sums" in kinds)
    if not set(kinds) & set(SAMPLED):
        return {**rounds, "head": left}
    if "head" not in kinds:
        return {**rounds, **dict.fromkeys(SAMPLED, min(left, sampled))}
    sampled = min(sampled, left - left // 2)
    head = min(HEAD_ROUNDS, left - sampled)
    return {**rounds, "head": head, **dict.fromkeys(SAMPLED, sampled)}


def _sampled(
    base: BiasPhase | DpZeroPhase, choices: Choices, rounds: int, facts: PublicFacts
) -> BiasPhase | DpZeroPhase:
    """The phase that samples; beside a head that trains along its gradients need other scales."""
    changes: dict[str, Any] = {"rounds": rounds}
    head = bool(facts.labels)
    if not choices.steps_per_round:
        changes["steps_per_round"] = math.ceil(BIAS_STEPS / rounds)
    if isinstance(base, DpZeroPhase) and not choices.learning_rate:
        rate = ZERO_RATE_WITH_HEAD if head else ZERO_RATE
        changes["optimizer"] = base.optimizer.changed(learning_rate=rate)
    if head:
        if not choices.sampling_rate:
            changes["sampling_rate"] = SAMPLING_RATE
        if isinstance(base, BiasPhase):
            optimizer: dict[str, Any] = {}
            if not choices.learning_rate:
                faster = min(FASTER_BY_SITES, math.sqrt(facts.sites))
                optimizer["learning_rate"] = LEARNING_RATE * faster
            if not choices.schedule:
                optimizer["schedule"] = "warm-up"
            changes["optimizer"] = base.optimizer.changed(**optimizer)
        elif not choices.clipping:  # its derivatives are clipped as they were measured
            changes["clipping"] = AutomaticClipping.checked(norm=choices.clipping_norm or 1.0)
    return base.changed(**changes)


def _noise(facts: PublicFacts, mu: float) -> float:
    """Of a mean over all sites' units that the whole budget buys; in clipping norms."""
    return math.sqrt(facts.sites) / (mu * max(1, facts.units))


def _head_share(facts: PublicFacts, mu: float) -> float:
    """Of the plan's mu^2 the part for the head: the more labels, the more it decides.

    Of a small budget it is more, so that the head's own noise stays bounded.
    """
    needed = (_noise(facts, mu) / HEAD_NOISE) ** 2
    return min(LARGEST_HEAD_SHARE, max(HEAD_SHARE_A_LABEL * facts.labels, needed))


def _part(kind: str, kinds: list[str]) -> float:
    """Of the head's mu^2 the part for one of its phases."""
    if not {"class-sums", "head"} <= set(kinds):
        return 1.0
    return SUMS_SHARE if kind == "class-sums" else 1 - SUMS_SHARE


def _head_phase(
    kind: str, facts: PublicFacts, mu_squared: float, rounds: int, noise: Noise
) -> ClassSums | HeadDescent:
    """A phase whose full-batch steps take ``mu_squared`` together."""
    noise = noise.changed(multiplier=rounded_up(math.sqrt(rounds / mu_squared)))
    if kind == "class-sums":
        return ClassSums.checked(noise=noise)
    # All steps add noise of norm sum(rate_t) * sigma * sqrt(sites * d / steps) / units to a row.
    travel = ROW_NOISE * facts.units * math.sqrt(mu_squared / (facts.sites * facts.width))
    fastest = LARGEST_RATE_A_LABEL * facts.labels
    rate = min(fastest, 2 * travel / (rounds + 1))  # it falls linearly to 0
    optimizer = Sgd.checked(learning_rate=float(f"{rate:.3g}"))
    return HeadDescent.checked(rounds=rounds, noise=noise, optimizer=optimizer)


def _calibrated(phases: list[Phase], epsilon: float, delta: float) -> Phase:
    """The last phase, with the noise that the others leave it."""
    *others, last = phases
    sigma = calibrate(epsilon, delta, last.sampling_rate, last.steps, counts_of(others))
    return last.changed(noise=last.noise.changed(multiplier=sigma))


def gaussian_mu(epsilon: float, delta: float) -> float:
    """The mu of the Gaussian mechanism that is (epsilon, delta)-private (corollary 1)."""

    def excess(mu: float) -> float:
        first = ndtr(-epsilon / mu + mu / 2)
        # In logarithms, because exp(epsilon) may overflow.
        second = math.exp(min(0.0, epsilon + float(log_ndtr(-epsilon / mu - mu / 2))))
        return float(first) - second - delta

    low, high = 1e-6, 1.0
    while excess(high) < 0 and high < 1e4:
        high *= 2
    return float(brentq(excess, low, high))
