"""Several devices of one site: the integers of one, drawn once; a worker that fails is said."""

import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
from dpbitfit_client.guard import workers as module
from dpbitfit_client.guard.workers import Workers
from dpbitfit_client.message import Refused
from numpy.typing import NDArray

from dpbitfit.data.tables import Table
from dpbitfit.engine.directions import Directions
from dpbitfit.engine.estimators import DirectionalDerivatives
from dpbitfit.engine.noise import DiscreteGaussian, DiscreteGaussianNoise
from dpbitfit.engine.optimizers import OptimizerState
from dpbitfit.engine.sampling import PoissonSampler
from dpbitfit.errors import DpbitfitError, InputError, ModelError, WorkerError
from dpbitfit.phases import DpZeroPhase, HeadDescent, Phase
from dpbitfit.tasks.features import FeatureCache
from dpbitfit.tasks.rounds import RoundStart, site_round

from ...support import plans
from ...support.saved_models import save_small
from ...support.sites import LONG, Site, key_of, served
from ...support.tasks import load_text
from ...support.workers import LABELS, SECRET, load
from .test_service import begun, until

COUNT = 30
TABLE = Table(
    {
        "text": [f"card {'lost ' * (number % 7)}{number}" for number in range(COUNT)],
        "label": [number % 2 for number in range(COUNT)],
    },
    units=[f"person {number % 11}" for number in range(COUNT)],
)
NOISE = DiscreteGaussianNoise(multiplier=1.0)
PHASES: dict[str, Phase] = {
    "biases": plans.phase(sampling_rate=0.5, rounds=1, steps_per_round=3, noise_multiplier=1.0),
    "dp-zero": DpZeroPhase.checked(
        noise=NOISE,
        rounds=1,
        steps_per_round=2,
        sampling_rate=0.5,
        estimator=DirectionalDerivatives(directions=4),
    ),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_small("bert", tmp_path_factory.mktemp("model") / "bert")


@pytest.fixture(scope="module")
def task(model: str) -> Any:
    return load_text(model, LABELS, "trained", max_length=16)


Make = Callable[..., Workers]


@pytest.fixture(scope="module")
def behaviour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("behaviour") / "of-workers"


@pytest.fixture(scope="module", autouse=True)
def read_seconds() -> Iterator[None]:
    """Less than a guard waits for a worker that is stopped."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "READ_SECONDS", 10)
        yield


@pytest.fixture(scope="module")
def make(model: str, behaviour: Path) -> Iterator[Make]:
    made = []

    def workers(count: int) -> Workers:
        made.append(Workers(["cpu"] * count, partial(load, model, behaviour), TABLE, 300.0))
        return made[-1]

    yield workers
    for each in made:
        each.kill()


@pytest.fixture(scope="module")
def shared(make: Make) -> Workers:
    """One worker; another one after each test that ends it."""
    return make(1)


@pytest.fixture
def workers(shared: Workers, behaviour: Path, task: Any) -> Workers:
    behaviour.write_text("")
    shared.ready(task)
    return shared


def drawn(patch: pytest.MonkeyPatch) -> list[NDArray[np.int64]]:
    """Samples in an order of their own and no noise in this process; what was released."""
    totals: list[NDArray[np.int64]] = []
    generator = np.random.default_rng(5)

    def draw(sampler: PoissonSampler) -> NDArray[np.int64]:
        return np.flatnonzero(generator.random(11) < 0.5)

    def release(noise: DiscreteGaussian, total: NDArray[np.int64]) -> NDArray[np.float64]:
        totals.append(total.copy())
        return total * noise.step

    patch.setattr(PoissonSampler, "draw", draw)
    patch.setattr(DiscreteGaussian, "release", release)
    return totals


def worked(task: Any, phase: Phase, workers: Workers | None = None) -> Any:
    """What a round releases, and its sums, with samples that are the same each time."""
    directions = Directions(bytes(32)) if isinstance(phase, DpZeroPhase) else None
    start = RoundStart(phase, 26, task.pretrained, OptimizerState(), directions)
    records = task.records(TABLE)
    cache = FeatureCache(task, records)
    with pytest.MonkeyPatch.context() as patch:
        totals = drawn(patch)
        if workers is None:
            return site_round(task, records, cache, start)[0], totals
        workers.ready(task)
        with workers.round(start) as ranks:
            return site_round(task, records, cache, start, None, ranks)[0], totals


def test_three_devices_release_the_integers_of_one_and_a_head_phase_needs_the_first_alone(
    task: Any, make: Make, behaviour: Path
) -> None:
    behaviour.write_text("")
    workers = make(2)
    for phase in PHASES.values():
        released, totals = worked(task, phase, workers)
        alone, sums = worked(task, phase)
        assert len(totals) == len(sums) > 1
        assert all(map(np.array_equal, totals, sums))
        assert all(total.any() for total in totals)
        assert np.array_equal(released, alone)
    start = RoundStart(HeadDescent(noise=NOISE), 26, task.pretrained, OptimizerState())
    with workers.round(start) as ranks:
        assert np.array_equal(ranks.share(np.arange(5)), np.arange(5))


def all_ended(workers: Workers) -> bool:
    return all(worker.has_ended for worker in workers._workers)


def test_a_worker_that_ended_between_rounds_is_replaced_before_the_next(
    task: Any, workers: Workers
) -> None:
    first, _ = worked(task, PHASES["biases"], workers)
    (before,) = workers._workers
    before.process.kill()
    before.process.wait()
    again, _ = worked(task, PHASES["biases"], workers)
    (after,) = workers._workers
    assert after.process.pid != before.process.pid
    assert np.array_equal(first, again)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("raises", "failed .KeyError."),
        ("cannot read", "failed .KeyError."),  # by a worker that has not worked a round yet
        ("hangs", "device cpu did not answer in time"),
    ],
)
def test_a_round_whose_worker_fails_ends_and_says_nothing_of_records(
    task: Any,
    workers: Workers,
    behaviour: Path,
    how: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(workers, "_round_seconds", 5.0)
    behaviour.write_text(how)
    with pytest.raises(WorkerError, match=words) as failed:
        worked(task, PHASES["biases"], workers)
    assert SECRET not in f"{failed.value}{capfd.readouterr()}"
    assert all_ended(workers)


def test_what_ends_a_round_here_leaves_no_worker_in_the_middle_of_one(
    task: Any, workers: Workers
) -> None:
    phase = PHASES["biases"]
    start = RoundStart(phase, 26, task.pretrained, OptimizerState())
    with pytest.raises(InterruptedError), workers.round(start):
        raise InterruptedError
    assert all_ended(workers)
    assert np.array_equal(worked(task, phase, workers)[0], worked(task, phase)[0])


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        ("missing", InputError, "on cpu: there is no such device"),
        ("other", ModelError, "cpu computes otherwise than the first device"),
    ],
)
def test_a_device_that_cannot_take_part_is_refused_before_any_round(
    task: Any, make: Make, behaviour: Path, how: str, error: type[DpbitfitError], words: str
) -> None:
    behaviour.write_text(how)
    workers = make(1)
    with pytest.raises(error, match=words):
        workers.ready(task)
    assert all_ended(workers)


def test_a_worker_that_takes_nothing_holds_up_no_guard(workers: Workers) -> None:
    """Stopped, with more to take than a pair of sockets holds."""
    (worker,) = workers._workers
    worker.process.send_signal(signal.SIGSTOP)
    biases = np.zeros(10**7, dtype=np.float32)
    start = RoundStart(PHASES["biases"], 26, biases, OptimizerState())
    with pytest.raises(WorkerError, match="did not answer in time"), workers.round(start):
        pass
    assert all_ended(workers)


def test_that_no_process_can_be_started_is_said(
    task: Any, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: Any, **__: Any) -> Any:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(module.subprocess, "Popen", none_left)
    with pytest.raises(WorkerError, match="Resource temporarily unavailable: see"):
        make(1).ready(task)


# A guard, as a site runs it.

DEVICES = (("site", "device"), ["cpu", "cpu"])


def workers_of(site: Site) -> list[psutil.Process]:
    assert site.process is not None
    return psutil.Process(site.process.pid).children()


@pytest.fixture
def site(corpus: Path) -> Iterator[Site]:
    with served(corpus, DEVICES) as site:
        yield site


def test_a_guard_works_a_round_on_two_devices_and_the_next_where_one_was_killed(
    site: Site,
) -> None:
    first = workers_of(site)
    assert len(first) == 1
    for each in first[0].net_connections("all"):
        assert each.family == socket.AF_UNIX
        assert not each.laddr  # it has no name: nothing can connect to it
    assert site.train().content
    assert site.readings() == ["train", "evaluate"]  # by the guard alone
    assert workers_of(site) == first
    site.office.run = "killed"
    request = site.request(site.plan(LONG))
    call = begun(site, request)
    time.sleep(0.5)
    first[0].kill()
    with pytest.raises(Exception, match="round-failed"):
        call.result()
    assert site.outcome(key_of(request)) == ("committed", "ended early")
    assert "device cpu ended with signal 9: see" in site.log.read_text()
    with pytest.raises(Refused, match="answer-lost"):
        site.relay().train(request)
    site.office.run = "run-1"
    assert site.train().content
    assert len(workers_of(site)) == 1
    assert site.readings() == ["train", "evaluate"]  # a file that changed since is not read
    assert not {process.pid for process in first} & {process.pid for process in workers_of(site)}


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_its_guard(site: Site, how: signal.Signals) -> None:
    """Whether it waits or is at work."""
    site.office.run = "ended"
    call = begun(site, site.request(site.plan(LONG)))
    processes = workers_of(site)
    assert len(processes) == 1
    assert site.end(how) == (0 if how == signal.SIGTERM else -how)
    until(lambda: not any(map(psutil.pid_exists, [process.pid for process in processes])))
    until(call.done)


def test_a_worker_looks_at_the_units_of_what_its_task_makes_of_the_records(
    task: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the guard does: it adds up a share of the same units."""
    make = task.records
    monkeypatch.setattr(task, "records", lambda table: make(replace(table, units=None)))
    messages = [(1, 2, "cpu", lambda device: task), TABLE, (None,) * 5]
    sent: list[Any] = []
    guard: Any = SimpleNamespace(recv=lambda: messages.pop(0), send=sent.append)
    module._work(guard)
    assert sent[-1] == ("ModelError", None)
