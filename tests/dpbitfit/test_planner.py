"""The planner: within the target, the same each time, from public facts alone."""

import math

import numpy as np
import pytest
import torch
from dp_accounting import dp_event
from dp_accounting.pld import PLDAccountant
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logsumexp

from dpbitfit.engine import linear_head
from dpbitfit.engine.biases import BiasLayout
from dpbitfit.engine.linear_head import GRID
from dpbitfit.engine.noise import DiscreteGaussianNoise
from dpbitfit.engine.optimizers import OptimizerState
from dpbitfit.errors import InputError
from dpbitfit.phases import BiasPhase, DpZeroPhase, HeadDescent, Phase
from dpbitfit.planner import NO_HEAD, Choices, PublicFacts, gaussian_mu, propose

BASE = BiasPhase(noise=DiscreteGaussianNoise(multiplier=1.0))
MANY = PublicFacts(labels=77, width=384, sites=4, units=12_000)
FEW = PublicFacts(labels=2, width=384, sites=4, units=8_000)


def proposed(facts: PublicFacts, epsilon: float = 8.0, **choices: object) -> tuple[Phase, ...]:
    return propose(facts, epsilon, 1e-5, Choices.checked(**choices), BASE)


def kinds(phases: tuple[Phase, ...]) -> list[str]:
    return [phase.kind for phase in phases]


@pytest.mark.parametrize("epsilon", [0.5, 2.0, 8.0])
@pytest.mark.parametrize("facts", [MANY, FEW])
def test_a_plan_takes_all_of_its_target_and_no_more(facts: PublicFacts, epsilon: float) -> None:
    accountant = PLDAccountant()
    for phase in proposed(facts, epsilon):
        for mechanism, steps in phase.counts:
            gaussian = dp_event.GaussianDpEvent(mechanism.noise_multiplier)
            accountant.compose(
                dp_event.PoissonSampledDpEvent(mechanism.sampling_rate, gaussian), steps
            )
    assert 0.98 * epsilon < accountant.get_epsilon(1e-5) <= epsilon


def test_biases_come_after_the_head_where_each_label_has_many_records() -> None:
    assert kinds(proposed(MANY)) == ["class-sums", "head"]
    assert kinds(proposed(FEW)) == ["class-sums", "head", "biases"]
    assert kinds(proposed(NO_HEAD)) == ["biases"]


def test_biases_come_where_noise_leaves_them_something_to_learn() -> None:
    """It grows as the budget falls, and with the sites that share the same number of units."""
    assert kinds(proposed(FEW, 0.5)) == ["class-sums", "head"]
    crowded = PublicFacts(labels=2, width=384, sites=400, units=8_000)
    assert kinds(proposed(crowded)) == ["class-sums", "head"]
    assert kinds(proposed(FEW, 0.5, phases="class-sums,head,biases"))[-1] == "biases"
    assert kinds(proposed(NO_HEAD, 0.5)) == ["biases"]


def test_beside_biases_the_head_has_a_tenth_of_a_large_budget_and_more_of_a_small_one() -> None:
    """In mu^2, which adds up: a part of the target's, by phases of full batches."""
    shares = []
    for epsilon in (8.0, 2.0, 1.0):
        *head, _biases = proposed(FEW, epsilon)
        spent = sum(phase.steps / phase.noise.multiplier**2 for phase in head)
        shares.append(spent / gaussian_mu(epsilon, 1e-5) ** 2)
    assert shares == pytest.approx([0.1, 0.1, 0.3], rel=0.01)


@pytest.mark.parametrize("phases", ["dp-zero", "class-sums,head,dp-zero"])
@pytest.mark.parametrize("most_rounds", [0, 6])
def test_dp_zero_has_the_place_of_biases(phases: str, most_rounds: int) -> None:
    zero, biases = (
        propose(
            FEW,
            2.0,
            1e-5,
            Choices.checked(phases=named, most_rounds=most_rounds),
            kind(noise=BASE.noise),
            noise_multiplier=2.0,
        )
        for named, kind in ((phases, DpZeroPhase), (phases.replace("dp-zero", "biases"), BiasPhase))
    )
    assert kinds(zero) == phases.split(",")
    for mine, theirs in zip(zero, biases, strict=True):  # the same privacy, step by step
        assert mine.counts == theirs.counts


def test_it_is_the_same_each_time() -> None:
    assert proposed(FEW) == proposed(FEW)


@given(most=st.integers(3, 60), rounds=st.integers(0, 20))
def test_it_keeps_to_the_rounds_that_one_is_ready_for(most: int, rounds: int) -> None:
    choices = Choices.checked(most_rounds=most, rounds=rounds)
    phases = propose(FEW, 8.0, 1e-5, choices, BASE, noise_multiplier=1.0)  # nothing to calibrate
    assert len(phases) == 3
    assert sum(phase.rounds for phase in phases) <= most
    assert phases[-1].rounds <= (rounds or 12)


def test_what_is_chosen_stays() -> None:
    (phase,) = proposed(
        NO_HEAD, phases="biases", rounds=3, steps_per_round=2, sampling_rate=0.4, learning_rate=0.5
    )
    assert isinstance(phase, BiasPhase)
    assert (phase.rounds, phase.steps_per_round) == (3, BASE.steps_per_round)


def test_what_is_chosen_stays_beside_a_head() -> None:
    chosen = BASE.changed(rounds=3, sampling_rate=0.4)
    choices = Choices.checked(rounds=3, sampling_rate=0.4, learning_rate=0.5, clipping="abadi")
    *_, phase = propose(FEW, 8.0, 1e-5, choices, chosen)
    assert isinstance(phase, BiasPhase)
    assert (phase.rounds, phase.sampling_rate) == (3, 0.4)
    assert phase.optimizer.learning_rate == BASE.optimizer.learning_rate
    assert phase.clipping == BASE.clipping
    *_, planned = propose(FEW, 8.0, 1e-5, Choices.checked(rounds=3), chosen)
    assert isinstance(planned, BiasPhase)
    assert planned.sampling_rate != 0.4


@pytest.mark.parametrize(("sites", "rate"), [(1, 0.01), (2, 0.0141), (4, 0.02), (100, 0.02)])
def test_biases_move_faster_where_more_sites_average_their_noise(sites: int, rate: float) -> None:
    facts = PublicFacts(labels=2, width=384, sites=sites, units=2_000 * sites)
    biases = proposed(facts)[-1]
    assert isinstance(biases, BiasPhase)
    assert biases.optimizer.schedule == "warm-up"
    assert biases.optimizer.learning_rate == pytest.approx(rate, rel=0.01)
    chosen = proposed(facts, schedule="linear", learning_rate=0.5)[-1]
    assert isinstance(chosen, BiasPhase)
    assert chosen.optimizer == BASE.optimizer


def test_a_record_that_is_learned_pulls_less_than_one_that_is_not() -> None:
    biases = proposed(FEW)[-1]
    assert isinstance(biases, BiasPhase)
    # With two labels and a logit scale of 20 a head's gradient has norm 40 (1 - p).
    gradients = 40 * torch.tensor([[0.02, 0.0], [0.75, 0.0]])
    clipper = biases.clipping.attach(torch.nn.Identity(), BiasLayout((), ()))
    learned, other = clipper.clip(gradients).norm(dim=1)
    assert learned < other / 4


def test_less_budget_means_smaller_steps_of_the_head() -> None:
    rates = [proposed(MANY, epsilon)[1].optimizer.learning_rate for epsilon in (8.0, 2.0, 0.5)]  # type: ignore[union-attr]
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize("labels", [2, 5, 20])
def test_the_head_descends_from_its_first_step_on(labels: int) -> None:
    """Without noise, on labels that no feature tells, where the loss is curved the most.

    The mean of the features holds a fifth of their squared length, as real ones' does.
    """
    facts = PublicFacts(labels=labels, width=64, sites=1, units=100_000)
    phase = proposed(facts, phases="head")[0]
    assert isinstance(phase, HeadDescent)
    draw = np.random.default_rng(0)
    classes, names = np.arange(2_000) % labels, draw.standard_normal((labels, 64)) / 8
    rows = draw.standard_normal((2_000, 64))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True) / math.sqrt(0.8)
    rows[:, 0] += math.sqrt(0.2)
    features = linear_head.on_grid(rows.astype(np.float32))
    head = names / np.linalg.norm(names, axis=1, keepdims=True)
    place = linear_head.LinearHead(slice(0, head.size), None, labels, 64, 20.0)
    units, state, losses = [*np.arange(2_000)[:, None]], OptimizerState(), []
    for _ in range(phase.rounds):
        vector = head.reshape(-1).astype(np.float32)
        coefficients = linear_head.residuals(place, vector, features, classes)
        logits = 20 * rows @ head.T
        losses.append(float((logsumexp(logits, axis=1) - logits[range(2_000), classes]).mean()))
        total = linear_head.outer_sum(coefficients, features, units, phase.norm) * GRID
        head, state = phase.step(head, total.reshape(head.shape), 1, 2_000, state)
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("most", [1, 2, 3])
def test_of_few_rounds_the_planner_takes_the_phases_that_buy_most(most: int) -> None:
    phases = proposed(FEW, most_rounds=most)
    assert [phase.kind for phase in phases] == ["class-sums", "head", "biases"][:most]
    assert sum(phase.rounds for phase in phases) == most


@pytest.mark.parametrize(
    ("facts", "choices", "says"),
    [
        (MANY, {"phases": "heads"}, "must be auto, or some of class-sums, head, biases"),
        (MANY, {"phases": "head,head"}, "each once"),
        (NO_HEAD, {"phases": "head"}, "head=trained"),
        (FEW, {"most_rounds": 2, "phases": "class-sums,head,biases"}, "need one each"),
        (FEW, {"most_rounds": 2, "rounds": 3}, "'rounds': of a phase of biases"),
        (MANY, {"rounds": 3, "clipping": "abadi"}, "'rounds', 'clipping': of a phase of biases"),
        (FEW, {"phases": "head", "sampling_rate": 0.2}, "'sampling-rate': .* name it in 'phases'"),
    ],
)
def test_what_cannot_be_is_named(facts: PublicFacts, choices: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        proposed(facts, **choices)
