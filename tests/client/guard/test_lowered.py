"""A policy that says another thing than the last one, through a restart of the real guard."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from dpbitfit_client.doctor import drifts
from dpbitfit_client.guard.accounts import Accounts
from dpbitfit_client.guard.service import serving
from dpbitfit_client.policy.policy import Policy

from dpbitfit.accounting import composition
from dpbitfit.errors import InputError, LedgerError
from dpbitfit.ledger import Ledger
from dpbitfit.ledger.heads import Heads
from dpbitfit.protocol.signing import verify

from ...support import plans
from ...support.sites import GOOD, Site, fresh_key, served

PLAN = plans.plan(GOOD, noise_multiplier=2.0, sampling_rate=0.3, rounds=20)
COST = composition.epsilon({PLAN.phases[0].mechanism: PLAN.phases[0].steps}, PLAN.delta).epsilon
BUDGET = ("datasets", "letters", "epsilon")
SHARES = [("datasets", "letters", "coordinators", who, "epsilon") for who in ("office", "other")]


@pytest.fixture
def site(corpus: Path) -> Iterator[Site]:
    with served(corpus) as site:
        yield site


def restart(site: Site, budget: float, share: float) -> None:
    site.end()
    site.write((BUDGET, budget), (SHARES[0], share), (SHARES[1], min(share, 2.0)))
    site.start()


def kinds(site: Site) -> list[str]:
    ledger = site.ledger()
    account = next(each for each in ledger.accounts() if each.name.dataset == "letters")
    result = [event.kind for event in ledger.events(account.name)]
    ledger.database.close()
    return result


@pytest.mark.parametrize(
    ("budget", "share"), [(COST - 0.01, COST - 0.01), (8.0, COST - 0.01)], ids=["budget", "share"]
)
def test_what_an_edited_policy_does_not_hold_is_taken_back_for_good(
    budget: float, share: float, site: Site
) -> None:
    plan = site.plan(PLAN)
    assert site.train(plan).content
    before = kinds(site)
    restart(site, 8.0, 6.0)
    assert kinds(site) == before
    assert site.train(plan).content
    restart(site, budget, share)
    assert kinds(site)[-1] == "void"
    key = fresh_key()
    refused = site.refused(plan, key=key)
    assert refused.code == "budget"
    ledger = site.ledger()
    verify(ledger.id, "untouched", {"key": key}, refused.untouched)
    (run,) = ledger.runs(ledger.accounts()[0])
    ledger.database.close()
    assert run.left == ()
    assert site.spent() == {"committed": 2}
    restart(site, 8.0, 6.0)
    assert site.refused(plan).code == "budget"
    assert site.spent() == {"committed": 2}
    site.office.run = "run-2"
    assert site.train(plan).content


def test_a_policy_that_holds_exactly_what_was_approved_takes_nothing_back(site: Site) -> None:
    plan = site.plan(PLAN)
    assert site.train(plan).content
    restart(site, COST, COST)
    assert "void" not in kinds(site)
    assert site.train(plan).content


def test_losses_that_another_unit_of_privacy_would_forget_start_no_guard(site: Site) -> None:
    assert site.train(site.plan(PLAN)).content
    site.end()
    site.write((("datasets", "letters", "unit-column"), "site"))
    policy = Policy.read(site.policy)
    with pytest.raises(InputError, match=r"letters/record holds losses .* keep the unit"):
        Accounts(policy)
    site.write((("datasets", "letters", "unit-column"), ...))
    site.start()
    assert site.train(site.plan(PLAN)).content


def test_losses_that_no_data_set_counts_any_more_are_named(site: Site) -> None:
    assert site.train(site.plan(PLAN)).content
    assert drifts(Policy.read(site.policy)) == []
    site.write((("site", "name"), "hospital-one"))
    (warning,) = drifts(Policy.read(site.policy))
    assert "account hospital-1/letters/record holds losses, and no data set" in warning


def test_a_guard_that_cannot_start_changes_no_budget_of_the_one_at_work(site: Site) -> None:
    plan = site.plan(PLAN)
    assert site.train(plan).content
    before = kinds(site)
    site.write((BUDGET, 0.5), (SHARES[0], 0.5), (SHARES[1], 0.5))
    with (
        pytest.raises(InputError, match="a guard listens here already"),
        serving(Policy.read(site.policy)),
    ):
        pass
    assert kinds(site) == before
    assert site.train(plan).content


def test_no_other_process_gives_a_guard_more_than_its_policy(site: Site) -> None:
    ledger = Ledger(str(site.ledger_file))
    (name,) = (each.name for each in ledger.accounts() if each.name.dataset == "letters")
    ledger.set_budget(name, 100.0, "beside the policy")
    assert site.refused(site.plan(PLAN)).code == "policy"
    ledger.set_budget(name, 8.0, "again")
    ledger.database.close()
    assert site.train(site.plan(PLAN)).content


def test_a_state_directory_that_is_full_costs_no_round(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.end()
    for name in ("DPBITFIT_TOUCHED", "DPBITFIT_LETTERS"):
        monkeypatch.setenv(name, site.environment[name])

    def full(*_: object) -> None:
        raise LedgerError("no space left on device")

    with serving(Policy.read(site.policy)):
        plan = site.plan(PLAN)
        with monkeypatch.context() as broken:
            broken.setattr(Heads, "write", full)
            assert site.refused(plan).code == "ledger"
        assert site.spent() == {}
        assert site.train(plan).content
