"""A policy that allows less than the last one, through a restart of the real guard."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dpbitfit.accounting import composition
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
