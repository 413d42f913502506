"""Every unit is in a step by its own coin: what Poisson accounting assumes."""

import numpy as np
import pytest
from scipy import stats

from dpbitfit.engine.noise import RandomSource
from dpbitfit.engine.sampling import PoissonSampler
from dpbitfit.errors import InputError

UNITS, RATE, DRAWS = 50, 0.3, 4000


@pytest.fixture(scope="module")
def draws() -> np.ndarray:
    sampler = PoissonSampler(UNITS, RATE, RandomSource())
    included = np.zeros((DRAWS, UNITS), dtype=bool)
    for row in included:
        row[sampler.draw()] = True
    return included


def test_each_unit_is_included_at_the_rate(draws: np.ndarray) -> None:
    deviation = (RATE * (1 - RATE) / DRAWS) ** 0.5
    assert np.abs(draws.mean(axis=0) - RATE).max() < 5 * deviation


def test_sizes_are_binomial_and_not_fixed(draws: np.ndarray) -> None:
    """A shuffled sampler, or one of a fixed size, has no such spread."""
    variance = draws.sum(axis=1).var()
    wanted = UNITS * RATE * (1 - RATE)
    assert variance == pytest.approx(wanted, rel=5 * (2 / DRAWS) ** 0.5)


def test_units_and_steps_are_independent(draws: np.ndarray) -> None:
    """Shuffling through the units would make neighbouring steps exclude each other."""
    values = draws.astype(float) - RATE
    scale = RATE * (1 - RATE)
    between_units = values[:, :-1] * values[:, 1:]
    between_steps = values[:-1] * values[1:]
    for products in (between_units, between_steps):
        assert abs(products.mean()) < 5 * scale / products.size**0.5


def test_a_draw_may_be_empty_and_all_is_possible() -> None:
    assert len(PoissonSampler(3, 1e-9, RandomSource()).draw()) == 0
    assert PoissonSampler(3, 1.0, RandomSource()).draw().tolist() == [0, 1, 2]
    sizes = [len(PoissonSampler(2, 0.5, RandomSource()).draw()) for _ in range(2000)]
    assert stats.binomtest(sizes.count(0), 2000, 0.25).pvalue > 1e-6


def test_the_operating_systems_key_decides_every_coin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails for coins from a generator that is no secret, np.random say."""

    def drawn(key: bytes) -> list[int]:
        monkeypatch.setattr("os.urandom", lambda count: key[:count])
        return PoissonSampler(UNITS, RATE, RandomSource()).draw().tolist()

    assert drawn(b"k" * 32) == drawn(b"k" * 32) != drawn(b"K" * 32)


@pytest.mark.parametrize("rate", [0.0, 1.5, float("nan"), -0.1])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(InputError, match="sampling rate"):
        PoissonSampler(3, rate, RandomSource())
