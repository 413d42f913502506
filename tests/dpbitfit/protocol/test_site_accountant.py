"""A site's account through Flower's own protocol, against Flower's own accountant."""

import json

import pytest
from flwr.serverapp import (
    GaussianPrivacyEvent,
    NeighboringRelation,
    PrivacyAccountant,
    PrivacyConfig,
    RdpAccountant,
    SamplingMethod,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from dpbitfit.accounting.composition import Mechanism
from dpbitfit.errors import AccountingError
from dpbitfit.protocol.site_accountant import SiteAccountant

EVENT = GaussianPrivacyEvent(noise_multiplier=1.0, sample_size=10, population_size=100)
STEP = Mechanism(1.0, 0.1)


def account(budget: float = 2.0) -> SiteAccountant:
    return SiteAccountant.of(1e-5, 100, budget)


def test_it_offers_all_that_flowers_protocol_asks() -> None:
    wanted = {name for name in vars(PrivacyAccountant) if not name.startswith("_")}
    assert wanted <= set(dir(account()))
    assert len(wanted) >= 8


def test_it_is_tighter_than_flowers_and_counts_alike() -> None:
    ours, theirs = account(), RdpAccountant(account().config)
    for accountant in (ours, theirs):
        accountant.compose(EVENT, 40)
    assert ours.num_releases == theirs.num_releases == 40
    assert 0 < ours.get_epsilon(1e-5) < theirs.get_epsilon(1e-5)
    spent = ours.get_privacy_spent()
    assert (spent.delta, spent.num_releases) == (1e-5, 40)
    assert spent.epsilon == ours.bound().epsilon
    assert ours.get_delta(spent.epsilon) == pytest.approx(1e-5, rel=0.1)


def test_would_exceed_agrees_with_what_then_happens_and_changes_nothing() -> None:
    accountant = account(budget=1.5)
    while not accountant.would_exceed(EVENT):
        before = accountant.num_releases
        accountant.compose(EVENT)
        assert accountant.num_releases == before + 1
    assert accountant.get_epsilon(1e-5) <= 1.5
    assert accountant.would_pass(STEP, 1)
    accountant.charge(STEP, 1)
    assert accountant.bound().epsilon > 1.5
    assert not accountant.would_exceed(EVENT, max_epsilon=50.0)


@settings(deadline=None, max_examples=25)
@given(
    st.lists(
        st.tuples(st.sampled_from([0.8, 1.0, 3.0]), st.integers(1, 30)), min_size=1, max_size=5
    )
)
def test_a_saved_account_comes_back_whole_through_json(charges: list[tuple[float, int]]) -> None:
    accountant, other = account(), account()
    for sigma, steps in charges:
        accountant.charge(Mechanism(sigma, 0.05), steps)
    other.load_state_dict(json.loads(json.dumps(accountant.state_dict())))
    assert other.state_dict() == accountant.state_dict()
    assert other.num_releases == sum(steps for _, steps in charges)


@pytest.mark.parametrize("steps", [0, -1, 1.5, True])
def test_steps_that_are_no_count_are_refused(steps: int) -> None:
    accountant = account()
    with pytest.raises(AccountingError, match="steps"):
        accountant.charge(STEP, steps)
    assert accountant.num_releases == 0


def test_other_sampling_and_a_missing_budget_are_refused() -> None:
    settings_of = {
        "target_delta": 1e-5,
        "population_size": 10,
        "neighboring_relation": NeighboringRelation.ADD_OR_REMOVE_ONE,
    }
    unsampled = PrivacyConfig(**settings_of, sampling_method=SamplingMethod.NO_AMPLIFICATION)
    with pytest.raises(AccountingError, match="Poisson"):
        SiteAccountant(unsampled)
    unlimited = PrivacyConfig(**settings_of, sampling_method=SamplingMethod.POISSON)
    with pytest.raises(AccountingError, match="budget"):
        SiteAccountant(unlimited).would_exceed(EVENT)
