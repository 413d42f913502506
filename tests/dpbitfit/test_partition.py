"""Every record goes to one site; a person is never split."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpbitfit.errors import InputError
from dpbitfit.partition import hold_out, natural_sites, split
from dpbitfit.tables import Examples


def examples(count: int, people: int = 0) -> Examples:
    generator = np.random.default_rng(0)
    units = [f"p{generator.integers(people)}" for _ in range(count)] if people else None
    sites = [f"s{i % 3}" for i in range(count)]
    labels = generator.integers(0, 5, count)
    return Examples([f"t{i}" for i in range(count)], labels, units, sites)


@given(
    count=st.integers(1, 60),
    sites=st.integers(1, 8),
    skew=st.sampled_from([0.0, 0.5, 10.0, 1e6]),
    people=st.sampled_from([0, 12]),
    seed=st.integers(0, 5),
)
def test_every_record_goes_to_one_site_and_none_is_empty(
    count: int, sites: int, skew: float, people: int, seed: int
) -> None:
    whole = examples(count, people)
    units = len(set(whole.units)) if whole.units else count
    if units < sites:
        with pytest.raises(InputError, match="sites"):
            split(whole, sites, skew, seed)
        return
    parts = split(whole, sites, skew, seed)
    assert len(parts) == sites
    assert all(len(part) for part in parts)
    assert sorted(text for part in parts for text in part.texts) == sorted(whole.texts)
    if people:
        owners = [set(part.units or []) for part in parts]
        assert sum(map(len, owners)) == units


def test_skew_skews_and_the_seed_decides() -> None:
    whole = examples(2000)

    def spread(skew: float) -> float:
        parts = split(whole, 4, skew, 1)
        shares = np.array([np.bincount(part.labels, minlength=5) / len(part) for part in parts])
        return float(shares.std(axis=0).mean())

    assert spread(0) < 0.05 < spread(10)
    assert split(whole, 4, 10, 1)[0].texts == split(whole, 4, 10, 1)[0].texts
    assert split(whole, 4, 10, 1)[0].texts != split(whole, 4, 10, 2)[0].texts


@pytest.mark.parametrize("people", [0, 30])
def test_a_hold_out_shares_no_person_with_the_sites(people: int) -> None:
    whole = examples(200, people)
    train, test = hold_out(whole, 0.25, 3)
    assert sorted(train.texts + test.texts) == sorted(whole.texts)
    assert 25 < len(test) < 80
    if people:
        assert not set(train.units or []) & set(test.units or [])


def test_natural_sites_are_those_that_the_data_names() -> None:
    sites = natural_sites(examples(10))
    assert list(sites) == ["s0", "s1", "s2"]
    assert [len(part) for part in sites.values()] == [4, 3, 3]
    with pytest.raises(InputError, match="names no sites"):
        natural_sites(Examples(["a"], np.zeros(1, dtype=np.int64)))


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0, float("nan"), 0.001, 0.999])
def test_a_hold_out_of_nothing_or_everything_is_refused(fraction: float) -> None:
    with pytest.raises(InputError, match="fraction"):
        hold_out(examples(20), fraction, 0)


@pytest.mark.parametrize(("sites", "skew"), [(0, 0.0), (2, -1.0), (2, float("nan"))])
def test_sites_and_skews_that_are_none_are_refused(sites: int, skew: float) -> None:
    with pytest.raises(InputError):
        split(examples(20), sites, skew, 0)
