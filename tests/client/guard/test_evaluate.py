"""Private evaluation: only listed metrics, noised as stated, charged to an account of its own."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from dpbitfit_client.guard import operations
from dpbitfit_client.guard.guard import go_on
from dpbitfit_client.message import Refused
from scipy.stats import norm

from dpbitfit.accounting.mechanism import Mechanism, merged
from dpbitfit.engine.biases import read_biases, select_biases
from dpbitfit.engine.noise import DiscreteGaussian
from dpbitfit.plan import Plan
from dpbitfit.protocol.messages import EvaluateReply
from dpbitfit.tasks.text_classification.settings import METRICS

from ...support import plans
from ...support.policies import POLICY, changed, read
from ...support.sites import GOOD, Site, fresh_key, served

# About twenty measurements at noise multiplier 20 cost epsilon 1 at 1e-5.
MEASURED = plans.plan(GOOD, metrics="accuracy", evaluations=6)


@pytest.fixture(scope="module")
def site(corpus: Path) -> Iterator[Site]:
    with served(corpus) as site:
        yield site


def refused(site: Site, plan: Plan, **options: Any) -> str:
    with pytest.raises(Refused) as refusal:
        site.evaluate(plan, **options)
    return refusal.value.code


def test_a_sites_own_task_measures_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """On several, values would follow from other records: see ``engine.determinism``."""
    model, seen = torch.nn.Linear(2, 2), list[int]()
    layout = select_biases(model)
    task: Any = SimpleNamespace(model=model, layout=layout, metrics={})
    task.evaluate = lambda *_: seen.append(torch.get_num_threads())
    loaded: Any = SimpleNamespace(task=task, records=lambda _part: None)
    dataset: Any = SimpleNamespace(evaluation=SimpleNamespace())
    monkeypatch.setattr(operations, "_chosen", lambda _work: {})
    work = operations.RoundWork(MEASURED, 1, "run-1", dataset, loaded)
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        operations.EvaluateRound(go_on).do(work, read_biases(model, layout), None)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
    assert seen == [1]


def test_only_listed_metrics_are_measured_and_nothing_else_is_charged(site: Site) -> None:
    plan = site.plan(MEASURED)
    for metrics in ("loss", "accuracy,loss", "accuracy,accuracy", "", "names", "accuracy,"):
        assert refused(site, plans.plan(plan, metrics=metrics)) == "policy"
    assert refused(site, plans.plan(plan, evaluations=0)) == "policy"
    assert refused(site, plans.plan(plan, noise_multiplier=0.5)) == "policy"
    assert refused(site, plans.plan(plan, model_digest="2" * 64)) == "protocol"
    assert site.spent("letters:evaluation") == {}


def test_a_measurement_is_signed_charged_to_its_own_account_and_kept(site: Site) -> None:
    plan, key = site.plan(MEASURED), fresh_key()
    before = site.spent()
    request = site.request(plan, "evaluate", key=key)
    reply = site.relay().evaluate(request)
    ledger = site.ledger()
    assert reply.sender == ledger.id
    ledger.database.close()
    metrics = reply.read(EvaluateReply, "reply").metrics
    assert list(metrics) == ["accuracy"]
    assert 0 <= metrics["accuracy"] <= 1
    again = site.relay().evaluate(request)
    assert again.read(EvaluateReply, "reply").metrics == metrics
    assert site.spent("letters:evaluation") == {"committed": 1}
    assert site.spent() == before
    assert refused(site, plan, key=key, biases=site.biases() + 1) == "protocol"
    assert site.refused(plan, key=key).code == "protocol"  # nor is it good for training
    assert site.spent() == before


def test_a_key_that_has_trained_measures_nothing(site: Site) -> None:
    """The same plan, run, round and biases: only what they are for is another thing."""
    plan, key = site.plan(MEASURED), fresh_key()
    measured = site.spent("letters:evaluation")
    site.office.run = "for-both"
    try:
        site.train(plan, key=key)
        assert refused(site, plan, key=key) == "protocol"
    finally:
        site.office.run = "run-1"
    assert site.spent("letters:evaluation") == measured


def test_a_plan_measures_as_often_as_it_says_and_the_budget_ends_it(site: Site) -> None:
    """The budget for training is another one: it is not touched, and goes on."""
    plan = site.plan(MEASURED)
    while site.spent("letters:evaluation")["committed"] < MEASURED.site_metrics.evaluations:
        site.evaluate(plan)
    assert refused(site, plan) == "budget"
    for number in range(10):
        site.office.run = f"more-{number}"
        try:
            site.evaluate(plan)
        except Refused as refusal:
            end = refusal
            break
    assert 0 < number < 9
    assert end.code == "budget"
    assert end.refusal.untouched
    site.office.run = "run-1"
    assert site.train().content


def test_it_works_no_longer_than_the_policy_says(corpus: Path) -> None:
    """Nor for a caller that is gone; what it has touched by then stays spent."""
    many = ("datasets", "letters", "evaluation", "loader"), "tests.support.loaders:many_held_out"
    with served(corpus, (("site", "round-seconds"), 1), many) as site:
        key = fresh_key()
        assert refused(site, site.plan(MEASURED), key=key) in ("cancelled", "round-failed")
        assert site.outcome(key) in (("committed", "ended early"), ("void", ""))


@pytest.mark.parametrize("noise", [(20.0, 30.0), (20.0, 20.0)])
def test_every_metric_is_charged(noise: tuple[float, float], tmp_path: Path) -> None:
    """Each is a mechanism of its own, as often as the plan measures; two alike are two."""
    accuracy, loss = noise
    metrics = {"accuracy": accuracy, "loss": loss}
    values = POLICY
    for name, sigma in metrics.items():
        key = ("datasets", "letters", "evaluation", "metrics", name, "noise-multiplier")
        values = changed(key, sigma, values)
    plan = plans.plan(MEASURED, metrics="accuracy,loss")
    dataset, loaded = read(tmp_path / "policy.toml", values).datasets["letters"], cast(Any, None)
    work = operations.RoundWork(plan, 1, "run-1", dataset, loaded)
    once, whole = operations.EvaluateRound(go_on).steps(work)
    assert once == merged((Mechanism(sigma, 1.0), 1) for sigma in noise)
    assert whole == merged(
        (Mechanism(sigma, 1.0), plan.site_metrics.evaluations) for sigma in noise
    )


def measured(
    values: list[float], units: list[list[int]], metric: str, sigma: float, size: int
) -> float:
    """A metric of records that have these values, in units of these records."""
    members = [np.array(unit) for unit in units]
    return operations.measure(METRICS[metric], np.array(values), members, sigma, size)


def test_the_bounds_are_public_constants() -> None:
    assert {name: metric.bound for name, metric in METRICS.items()} == {
        "accuracy": 1.0,
        "loss": 10.0,
    }


@pytest.mark.parametrize("metric", METRICS)
def test_the_noise_has_the_scale_that_is_charged(metric: str) -> None:
    """Against a normal of the same scale; margins of five standard errors and more."""
    bound, draws, sigma, size = METRICS[metric].bound, 4000, 3.0, 100
    units = [[0]] * 100  # a sum of 50: clipping to [0, 1] is far away
    released = [measured([0.5 * bound], units, metric, sigma, size) for _ in range(draws)]
    sums = np.array(released) / bound * size
    normal = norm(50, sigma)
    assert abs(sums.mean() - 50) < 5 * sigma / np.sqrt(draws)
    assert 0.9 < sums.std() / sigma < 1.1
    for quantile in (0.05, 0.25, 0.75, 0.95):
        exact = normal.ppf(quantile)
        error = np.sqrt(quantile * (1 - quantile) / draws) / normal.pdf(exact)
        assert abs(np.quantile(sums, quantile) - exact) < 5 * error


class Sums:
    """In place of the noise: the sum that it would be added to."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def release(self, noise: DiscreteGaussian, total: np.ndarray) -> np.ndarray:
        self.seen.append(float(total[0]) * noise.step)
        return total * noise.step


@pytest.fixture
def sums(monkeypatch: pytest.MonkeyPatch) -> Sums:
    sums = Sums()
    monkeypatch.setattr(
        DiscreteGaussian, "release", lambda noise, total: sums.release(noise, total)
    )
    return sums


HOSTILE = [0.0, 3.0, 1e30, float("inf"), float("nan"), -5.0, -float("inf")]


@pytest.mark.parametrize("metric", METRICS)
def test_one_more_unit_moves_the_sum_by_at_most_one(sums: Sums, metric: str) -> None:
    """Whatever its values are, and however many records it has."""
    values, units = [1.0, 0.4, 2.0], [[0], [1, 2]]
    measured(values, units, metric, 5.0, 100)
    for value in HOSTILE:
        for count in (1, 2, 500):
            more = [*units, list(range(3, 3 + count))]
            measured(values + [value] * count, more, metric, 5.0, 100)
            assert 0 <= sums.seen[-1] - sums.seen[0] <= 1 + 1e-9


def test_the_divisor_is_the_declared_size(sums: Sums) -> None:
    values, units = [1.0] * 10, [[i] for i in range(10)]
    assert measured(values, units, "accuracy", 1.0, 40) == pytest.approx(0.25)
    assert measured(values, units, "accuracy", 1.0, 5) == 1.0


def test_what_is_no_number_counts_as_the_bound(sums: Sums) -> None:
    for value in (float("nan"), float("inf"), 1e30):
        measured([value], [[0]], "loss", 1.0, 10)
        assert sums.seen[-1] == pytest.approx(1.0)
