"""The noise has the variance that is accounted, on a grid that hides what was summed."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from dpbitfit.engine.noise import (
    GRID_BITS,
    DiscreteGaussian,
    DiscreteGaussianNoise,
    FastInsecureNoise,
    RandomSource,
    sample_discrete_gaussian,
)
from dpbitfit.errors import InputError

KINDS = [DiscreteGaussianNoise, FastInsecureNoise]
COUNT = 200_000


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("norm", "sigma"), [(1.0, 1.0), (0.1, 0.64), (3.0, 12.0)])
def test_zero_comes_back_as_noise_of_sigma_times_the_norm(
    kind: type[DiscreteGaussianNoise], norm: float, sigma: float
) -> None:
    noise = kind(multiplier=sigma).source(norm).release(np.zeros(COUNT, dtype=np.int64))
    # The standard error of a deviation is 1 / sqrt(2 n): five of them is 0.8 %.
    assert noise.std() == pytest.approx(sigma * norm, rel=0.008)
    assert abs(noise.mean()) < 5 * sigma * norm / COUNT**0.5
    assert stats.kstest(noise / (sigma * norm), "norm").pvalue > 1e-6


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.7])
def test_small_discrete_gaussians_have_the_exact_probabilities(sigma: float) -> None:
    drawn = sample_discrete_gaussian(sigma, COUNT, RandomSource())
    support = np.arange(-40, 41)
    weights = np.exp(-(support**2) / (2 * sigma**2))
    wanted = COUNT * weights / weights.sum()
    common = wanted > 10
    seen = np.array([(drawn == x).sum() for x in support[common]])
    statistic = ((seen - wanted[common]) ** 2 / wanted[common]).sum()
    assert stats.chi2.sf(statistic, common.sum() - 1) > 1e-6


@pytest.mark.parametrize("bits", [21.5, 32, 44, 53])
def test_noise_of_any_size_reaches_every_whole_number(bits: float) -> None:
    """As a gap would tell which sum is below: the last bits are uniform, far out as well."""
    sigma = 2.0**bits
    drawn = sample_discrete_gaussian(sigma, COUNT, RandomSource())
    assert stats.kstest(drawn / sigma, "norm").pvalue > 1e-6
    for chosen in (np.abs(drawn) < sigma, np.abs(drawn) > 1.5 * sigma):
        seen = np.bincount(np.abs(drawn[chosen]) % 16, minlength=16)
        assert stats.chisquare(seen).pvalue > 1e-6


@given(rows=arrays(np.float64, (4, 6), elements=st.floats(-1, 1)), sigma=st.floats(0.1, 100))
@example(rows=np.ones((4, 6)), sigma=math.nextafter(1, 0))
def test_rounding_never_lengthens_a_row_and_is_fine(rows: np.ndarray, sigma: float) -> None:
    noise = DiscreteGaussian(1.0, sigma)
    rounded = noise.round_toward_zero(torch.from_numpy(rows)).numpy()
    assert (np.abs(rounded * noise.step) <= np.abs(rows)).all()
    assert (np.abs(rounded * noise.step - rows) < noise.step).all()
    assert 2**GRID_BITS <= noise.sigma == sigma / noise.step < 2 ** (GRID_BITS + 1)


def test_the_sum_reappears_under_the_noise() -> None:
    noise = DiscreteGaussian(1.0, 0.5)
    total = noise.round_toward_zero(torch.full((1, COUNT), 0.25).double()).sum(dim=0).numpy()
    assert noise.release(total).mean() == pytest.approx(0.25, abs=5 * 0.5 / COUNT**0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_two_draws_and_two_instances_share_nothing(kind: type[DiscreteGaussianNoise]) -> None:
    zeros = np.zeros(1000, dtype=np.int64)
    first, second = (kind(multiplier=1.0).source(1.0) for _ in range(2))
    draws = [first.release(zeros), first.release(zeros), second.release(zeros)]
    for i, one in enumerate(draws):
        for other in draws[i + 1 :]:
            assert abs(np.corrcoef(one, other)[0, 1]) < 0.2


def test_released_values_stay_on_the_grid() -> None:
    noise = DiscreteGaussian(1.0, 1.0)
    released = noise.release(np.arange(1000))
    assert (released / noise.step == np.round(released / noise.step)).all()


def test_uniforms_have_53_bits_and_lie_below_one() -> None:
    uniforms = RandomSource().uniform(COUNT)
    assert uniforms.min() >= 0
    assert uniforms.max() < 1
    assert ((uniforms * 2**53) % 2 == 1).mean() == pytest.approx(0.5, abs=0.01)
    assert stats.kstest(uniforms, "uniform").pvalue > 1e-6


def test_the_operating_systems_key_decides_all_of_the_default_noise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fails for noise or uniforms from a generator that is no secret, np.random say."""

    def drawn(key: bytes) -> list[float]:
        monkeypatch.setattr("os.urandom", lambda count: key[:count])
        return DiscreteGaussian(1.0, 1.0).release(np.zeros(50, np.int64)).tolist()

    assert drawn(b"k" * 32) == drawn(b"k" * 32) != drawn(b"K" * 32)


@pytest.mark.parametrize(("norm", "sigma"), [(0.0, 1.0), (1.0, 0.0), (1.0, float("nan")), (-1, 1)])
def test_noise_that_would_be_none_is_refused(norm: float, sigma: float) -> None:
    with pytest.raises(InputError, match="above 0"):
        DiscreteGaussian(norm, sigma)
