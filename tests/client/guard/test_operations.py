"""What a round is charged for is what it does, whichever phase a coordinator asks for."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from dpbitfit_client.guard import operations
from dpbitfit_client.guard.guard import go_on
from dpbitfit_client.guard.workers import Workers

from dpbitfit.engine.optimizers import OptimizerState
from dpbitfit.errors import ProtocolError, WorkerError
from dpbitfit.phases import HeadDescent

from ...support import plans

FIRST = plans.phase(rounds=2, steps_per_round=1, noise_multiplier=4.0)
SECOND = plans.phase(rounds=1, steps_per_round=3, noise_multiplier=1.0)
PLAN = plans.plan().changed(phases=(FIRST, SECOND))
DATASET = cast(Any, SimpleNamespace(declared_size=10))
ALONE = Workers((), cast(Any, None), cast(Any, None), 1.0)
LOADED = cast(Any, SimpleNamespace(task=None, records=id, features=id, workers=ALONE))


@pytest.mark.parametrize(("number", "phase"), [(1, FIRST), (2, FIRST), (3, SECOND)])
def test_a_round_is_charged_and_trained_as_its_own_phase(
    number: int, phase: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []

    def site_round(_task: Any, _records: Any, _cache: Any, start: Any, *_: Any) -> Any:
        trained.append(start.phase)
        return np.zeros(3, dtype=np.float32), OptimizerState()

    monkeypatch.setattr(operations, "site_round", site_round)
    operation = operations.TrainRound(go_on, "site")
    work = operations.RoundWork(PLAN, number, "run", DATASET, LOADED)
    once, whole = operation.steps(work)
    assert dict(once) == {phase.mechanism: phase.steps_per_round}
    assert dict(whole) == {FIRST.mechanism: 2, SECOND.mechanism: 3}
    operation.do(work, np.zeros(3, dtype=np.float32), None)
    assert trained == [phase]


@pytest.mark.parametrize("number", [0, 4, 10**6])
def test_a_round_that_the_plan_does_not_have_is_refused_uncharged(number: int) -> None:
    work = operations.RoundWork(PLAN, number, "run", DATASET, LOADED)
    with pytest.raises(ProtocolError, match="no such round"):
        operations.TrainRound(go_on, "site").steps(work)


def test_a_device_that_cannot_take_part_matters_before_a_round_that_samples_is_charged() -> None:
    """And before no other: a phase of the head, like a measurement, computes on the first alone."""

    def broken(_task: Any) -> None:
        raise WorkerError("the process for the device cuda:1 ended")

    loaded = cast(Any, SimpleNamespace(check=id, task=None, workers=SimpleNamespace(ready=broken)))
    head = HeadDescent(noise=FIRST.noise, rounds=1)
    plan = plans.plan(head="trained").changed(phases=(head, FIRST))
    first, second = (operations.RoundWork(plan, n, "run", DATASET, loaded) for n in (1, 2))
    train, evaluate = operations.TrainRound(go_on, "site"), operations.EvaluateRound(go_on)
    train.check(first)
    evaluate.check(second)
    with pytest.raises(WorkerError):
        train.check(second)
