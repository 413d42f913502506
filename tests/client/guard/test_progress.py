"""A caller may end work that it is told of: for nothing before it, for all of it within."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dpbitfit_client.guard.guard import Guard
from dpbitfit_client.message import Refused
from dpbitfit_client.policy.policy import Policy

from dpbitfit.protocol.messages import Description

from ...support import plans
from ...support.sites import GOOD, Site, begin, fresh_key, made, pretrained

PLAN = plans.plan(GOOD, steps_per_round=2, metrics="accuracy", evaluations=1)

Ask = Callable[[str, int], Refused]


@pytest.fixture(scope="module")
def site(corpus: Path) -> Iterator[Site]:
    with made(corpus) as site:
        site.write()
        begin(site.ledger_file)
        yield site


@pytest.fixture(scope="module")
def ended(site: Site) -> Iterator[Ask]:
    """How a guard of this process refuses what is ended at the ``nth`` sign of progress."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("DPBITFIT_TOUCHED", "DPBITFIT_LETTERS"):
            patch.setenv(name, site.environment[name])
        guard = Guard(Policy.read(site.policy))
        reply = guard.describe(site.office.question(PLAN))
        facts = Description.decode(reply.statement).facts
        plan = plans.plan(PLAN, layout_digest=facts.layout_digest, model_digest=facts.model_digest)

        def ask(purpose: str, nth: int) -> Refused:
            output = []

            def progress(done: int, of: int) -> None:
                output.append(done / of)
                if len(output) == nth:
                    raise InterruptedError

            request = site.office.request(plan, pretrained(), fresh_key(), purpose)
            answer = guard.train if purpose == "train" else guard.evaluate
            with pytest.raises(Refused) as refused:
                answer(request, progress)
            assert len(output) == nth
            return refused.value

        yield ask


@pytest.mark.parametrize("purpose", ["train", "evaluate"])
def test_what_is_ended_before_it_begins_has_cost_nothing(
    site: Site, ended: Ask, purpose: str
) -> None:
    refusal = ended(purpose, 1).refusal
    assert refusal.untouched
    assert site.outcome(refusal.key) == ("void", "")


@pytest.mark.parametrize("purpose", ["train", "evaluate"])
def test_what_is_ended_later_stays_spent(site: Site, ended: Ask, purpose: str) -> None:
    """Records were touched by then."""
    refusal = ended(purpose, 2).refusal
    assert not refusal.untouched
    assert site.outcome(refusal.key) == ("committed", "ended early")
