"""What an attacker learns of one unit from draws of the mechanism itself, against what is claimed.

The attacker knows every other unit, the norms and the noise, and whether the canary was in is a
test between two distributions. A lower bound on epsilon follows from the errors of the best test
(Nasr et al. 2023, arXiv 2302.07956): a Gaussian mechanism cannot have both so small. Clopper and
Pearson's interval, at 1 in 10,000 each, is what keeps it a lower bound.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import beta, norm

from dpbitfit.accounting.composition import epsilon
from dpbitfit.accounting.mechanism import Mechanism
from dpbitfit.engine.groupwise import AdaptiveClipping, Allocation, GroupClipper
from dpbitfit.engine.noise import DiscreteGaussian
from dpbitfit.engine.summing import UnitSum

from .test_groupwise import ALLOCATIONS, clipper

DRAWS, DELTA, SIGMA = 4000, 1e-5, 1.0
CONFIDENCE = 1e-4
MEMBERS = np.repeat(np.arange(3), [3, 5, 2])
NORMS = [0.5, 1.0, 2.0]
CLAIM = epsilon({Mechanism(SIGMA, 1.0): 1}, DELTA).epsilon
Source = Callable[[GroupClipper], Any]


def draws(own: GroupClipper, source: Source, canary: bool) -> np.ndarray:
    """What is released of three units, one of them the canary or not [DRAWS, P + appended]."""
    rows = torch.tensor([[1e-3] * 10, [0.3] * 10, [50.0] * 10])
    noise = source(own)
    zeros = torch.zeros(10 + own.appended, dtype=torch.int64)
    summed = UnitSum([np.array([i]) for i in range(3)], np.arange(2 + canary), own, noise, zeros)
    summed.ready(summed.records, rows[: 2 + canary])()
    total = summed.total()
    released: np.ndarray = noise.release(np.tile(total, DRAWS)).reshape(DRAWS, -1)
    return released


def audited(own: GroupClipper, source: Source) -> float:
    """A lower bound on epsilon, from thresholds on the most telling direction."""
    without, within = draws(own, source, False), draws(own, source, True)
    shift = within.mean(axis=0) - without.mean(axis=0)
    # Fisher's direction: a value with little noise weighs more.
    direction = shift / np.maximum((without.var(axis=0) + within.var(axis=0)) / 2, 1e-30)
    middle = float((within.mean(axis=0) + without.mean(axis=0)) @ direction / 2)
    false_alarms = int((without @ direction > middle).sum())
    missed = int((within @ direction <= middle).sum())
    rates = [beta.ppf(1 - CONFIDENCE, wrong + 1, DRAWS - wrong) for wrong in (false_alarms, missed)]
    mu = float(norm.ppf(1 - rates[0]) - norm.ppf(rates[1]))
    return epsilon({Mechanism(1 / max(mu, 1e-3), 1.0): 1}, DELTA).epsilon


def honest(own: GroupClipper) -> DiscreteGaussian:
    return DiscreteGaussian(own.sensitivity, SIGMA)


def halved(own: GroupClipper) -> DiscreteGaussian:
    return DiscreteGaussian(own.sensitivity / 2, SIGMA)


class NoQuantileNoise(DiscreteGaussian):
    """The counts are released as they are."""

    def release(self, total: np.ndarray) -> np.ndarray:
        noised = super().release(total)
        counts = np.arange(total.size) % (10 + len(NORMS)) >= 10
        return np.where(counts, total * self.step, noised)


def flat_sensitivity(own: GroupClipper) -> DiscreteGaussian:
    """The noise of rows whose every group may fill one flat norm, as if there were one group."""
    return DiscreteGaussian(own.sensitivity / len(NORMS) ** 0.5, SIGMA)


ADAPTIVE = AdaptiveClipping(quantile_cost=0.1)


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("adaptive", [None, ADAPTIVE])
def test_the_audit_stays_below_the_claim(
    allocation: Allocation, adaptive: AdaptiveClipping | None
) -> None:
    bound = audited(clipper(MEMBERS, NORMS, allocation, adaptive), honest)
    assert 0.7 * CLAIM < bound <= CLAIM  # and not far below, or it would see nothing


@pytest.mark.parametrize(
    ("source", "adaptive"),
    [
        (halved, None),
        (halved, ADAPTIVE),
        (flat_sensitivity, None),
        (flat_sensitivity, ADAPTIVE),
        (lambda own: NoQuantileNoise(own.sensitivity, SIGMA), ADAPTIVE),
    ],
    ids=["halved", "halved-adaptive", "flat", "flat-adaptive", "quantiles-without-noise"],
)
def test_the_audit_notices_too_little_noise(
    source: Source, adaptive: AdaptiveClipping | None
) -> None:
    own = clipper(MEMBERS, [1.0] * 3, "equal-budget", adaptive)
    assert audited(own, source) > CLAIM
