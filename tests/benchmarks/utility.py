"""What a plan learns: accuracy of methods over data sets, budgets and sites, with the real engine.

    python -m tests.benchmarks.utility --data DIR --sets banking77,sst2 --epsilons 8,2,1

Sites are worked one after the other in this process, with the sampler, clipping, noise and
aggregation that a federation has, and without Flower, guard and ledger. Each finished run
is a line of the JSON file, which a next call goes on from: all takes hours. ``--quick``
leaves the biases out, and takes minutes; ``--precision bfloat16`` needs a file of its own. A
method's name may end in a number of rounds, of 5 steps each, for the phase of biases
(``two-groups:4``). Minutes are the process's CPU time, because other work may run. Settings are
the planner's, those of what it is compared with published ones (``baselines.py``): nothing is
tuned here.
"""

import argparse
import hashlib
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any, get_args

import numpy as np
from dpbitfit_server.pooling import PooledSteps
from rich.console import Console
from rich.progress import track
from rich.table import Table as Printed

from dpbitfit.accounting.composition import epsilon as composed
from dpbitfit.accounting.mechanism import merged
from dpbitfit.data.partition import natural_sites, split
from dpbitfit.engine.biases import read_biases, write_biases
from dpbitfit.engine.devices import Precision
from dpbitfit.engine.directions import Directions
from dpbitfit.engine.noise import DiscreteGaussianNoise
from dpbitfit.engine.optimizers import OptimizerState
from dpbitfit.phases import Phase
from dpbitfit.plan import ModelIdentity, Plan
from dpbitfit.planner import Choices, PublicFacts, propose
from dpbitfit.tasks.attach import attach
from dpbitfit.tasks.features import FeatureCache, trained_head
from dpbitfit.tasks.registry import TEXT_CLASSIFICATION, resolve
from tests.benchmarks.baselines import METHODS, Method, round_of
from tests.benchmarks.data_sets import SETS, Data, read

DELTA = 1e-5
PLENTY = 1000.0  # the epsilon for which a run without privacy is planned: it limits no rate
STEPS_A_ROUND = 5  # where a method's name says how many rounds
SITES = {"central": 1, "4 sites": 4, "natural": 0}


class Remembering:
    """A task that computes a text's features once for all runs: they are its own, to the bit.

    Seconds are counted as if they were computed each time.
    """

    def __init__(self, task: Any, known: dict[Any, tuple[Any, float]]) -> None:
        self._task, self._known = task, known
        self.saved = 0.0  # seconds

    def features(self, records: Any, progress: Any = None) -> Any:
        below = np.delete(read_biases(self._task.model, self._task.layout), _of_head(self._task))
        digest = hashlib.sha256(below.tobytes()).digest()
        keys = [(digest, tuple(tokens)) for tokens in records.tokens]
        if any(key not in self._known for key in keys):
            began = time.process_time()
            rows = self._task.features(records, progress)
            each = (time.process_time() - began) / len(keys)
            self._known.update({key: (row, each) for key, row in zip(keys, rows, strict=True)})
        else:
            self.saved += sum(self._known[key][1] for key in keys)
        return np.array([self._known[key][0] for key in keys])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)


def _of_head(task: Any) -> Any:
    return np.r_[task.linear_head.weight]


_KNOWN: dict[Any, tuple[Any, float]] = {}


def run(
    data: Data,
    name: str,
    epsilon: float | None,
    sites: int,
    seed: int,
    precision: Precision = "float32",
) -> Iterator[dict[str, Any]]:
    """One run's accuracy after each round; the seed deals the records, the noise has none.

    Without privacy ``epsilon`` is None.
    """
    kind, (method, rounds) = resolve(TEXT_CLASSIFICATION, {}), _method(name)
    settings = kind.Settings.checked(head=method.head, layers=method.layers)
    task = attach(kind, "minilm", settings, data.labels, precision=precision)
    changes = method.train(task)
    tables = (
        split(data.training, sites, 0.0, seed)
        if sites
        else list(natural_sites(data.training, data.test).values())
    )
    parts = [task.records(table) for table in tables]
    remembering: Any = Remembering(task, _KNOWN)
    caches = [FeatureCache(remembering, part) for part in parts]
    test, test_cache = task.records(data.test), None
    sizes = [_declared(len(table)) for table in tables]
    place = trained_head(task)[1] if method.head == "trained" else None
    labels, width = (place.classes, place.width) if place else (0, 0)
    facts = PublicFacts(labels, width, len(tables), sum(sizes))
    steps = STEPS_A_ROUND if rounds else 0
    choices = Choices(phases=method.phases, rounds=rounds, steps_per_round=steps)
    base = choices.sampled(noise=DiscreteGaussianNoise(multiplier=1.0), **method.settings)
    phases = propose(facts, epsilon or PLENTY, DELTA, choices, base)
    cost = composed(dict(merged(count for phase in phases for count in phase.counts)), DELTA)
    plan = Plan(
        dataset="",
        unit="record",
        delta=DELTA,
        model=ModelIdentity(digest=task.digest, layout=task.layout.digest),
        phases=method.phases_of(phases, changes),
    )
    pooled, vector = PooledSteps(plan, place), task.pretrained
    states = [OptimizerState() for _ in parts]
    directions = [Directions(os.urandom(32)) for _ in parts]  # of a site's steps of dp-zero
    if place is not None:
        test_cache = FeatureCache(Remembering(task, _KNOWN), test)  # type: ignore[arg-type]
    for number in range(1, plan.rounds + 1):
        at, began = plan.locate(number), time.process_time()
        if at.round == 1:
            states = [OptimizerState() for _ in parts]
        released = []
        for site, part in enumerate(parts):
            change, states[site] = round_of(
                task,
                part,
                caches[site],
                at.phase,
                sizes[site],
                vector,
                states[site],
                directions[site],
            )
            released.append(change)
        if at.phase.pools:
            vector = pooled.step(at, vector, released, sizes)
        else:
            places = at.phase.places(len(vector), place)
            step = (at.round - 1) * at.phase.steps_per_round
            changes = [
                at.phase.change(sent, step, own, len(places))
                for sent, own in zip(released, directions, strict=True)
            ]
            vector = vector.copy()
            vector[places] += np.average(changes, axis=0, weights=sizes).astype(np.float32)
        seconds, remembering.saved = time.process_time() - began + remembering.saved, 0.0
        yield {
            "round": number,
            "phase": at.phase.kind,
            "accuracy": _accuracy(task, test, test_cache, at.phase, vector),
            "seconds": seconds,
            "bytes": 4 * len(released[0]),
            "epsilon": cost.epsilon if method.private else None,
        }


def _method(name: str) -> tuple[Method, int]:
    """A method, and the rounds of its last phase; 0: the planner's."""
    name, _, rounds = name.partition(":")
    return METHODS[name], int(rounds or 0)


def _target(method: str, epsilon: str) -> float | None:
    return float(epsilon) if _method(method)[0].private else None


def _declared(count: int) -> int:
    digit = 10 ** math.floor(math.log10(count))
    return int(round(count / digit) * digit)


def _accuracy(task: Any, test: Any, cache: FeatureCache | None, phase: Phase, vector: Any) -> float:
    """On the test set; in a phase of the head from its cached features."""
    if cache is not None and phase.pools:
        features = cache.find(vector)
        weights = trained_head(task)[1].weights(vector)
        best = (features.rows @ weights.T).argmax(axis=1)
        return float((best == features.classes).mean())
    write_biases(task.model, task.layout, vector)
    return float(task.evaluate(test)["accuracy"].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--epsilons", default="0.5,1,2,4,8")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--sites", default=",".join(SITES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--precision", choices=get_args(Precision), default="float32")
    parser.add_argument("--quick", action="store_true", help="the head alone, on banking77")
    parser.add_argument("--out", type=Path, default=Path("out/utility.jsonl"))
    options = parser.parse_args()
    if options.quick:
        options.sets, options.methods = "banking77", "head"
    options.out.parent.mkdir(parents=True, exist_ok=True)
    lines = options.out.read_text().splitlines() if options.out.exists() else []
    done = {tuple(json.loads(line)["key"]): json.loads(line) for line in lines}
    keys = [
        (name, method, _target(method, epsilon), sites, options.precision, seed)
        for name in options.sets.split(",")
        for epsilon in options.epsilons.split(",")
        for sites in options.sites.split(",")
        if sites != "natural" or name.startswith("medquad")
        for method in options.methods.split(",")
        for seed in range(options.seeds)
    ]
    keys = list(dict.fromkeys(keys))  # without privacy there is no epsilon to vary
    data_sets: dict[str, Data] = {}
    for key in track([key for key in keys if key not in done], console=Console(stderr=True)):
        name, method, epsilon, sites, precision, seed = key
        data = data_sets.setdefault(name, read(name, options.data))
        rounds = list(run(data, method, epsilon, SITES[sites], seed, precision))
        done[key] = {"key": key, "rounds": rounds}
        with options.out.open("a") as file:
            file.write(json.dumps(done[key]) + "\n")
            os.fsync(file.fileno())
    _print({key: done[key]["rounds"] for key in keys})


def _print(runs: dict[tuple[Any, ...], list[dict[str, Any]]]) -> None:
    groups: dict[tuple[Any, ...], list[list[dict[str, Any]]]] = {}
    for key, rounds in runs.items():
        groups.setdefault(key[:-1], []).append(rounds)
    titles = ("set", "method", "target", "sites", "epsilon", "accuracy", "after the head")
    printed = Printed(*titles, "CPU minutes", "kB a site")
    for (name, method, target, sites, precision), group in groups.items():
        printed.caption = precision
        final = [rounds[-1]["accuracy"] for rounds in group]
        error = stdev(final) / math.sqrt(len(final)) if len(final) > 1 else 0.0
        heads = [
            [line["accuracy"] for line in rounds if line["phase"] == "head"] for rounds in group
        ]
        printed.add_row(
            name,
            method,
            f"{target:g}" if target else "NO PRIVACY",
            sites,
            f"{max(rounds[-1]['epsilon'] for rounds in group):.3f}" if target else "",
            f"{mean(final):.3f}" + (f" ± {error:.3f}" if len(final) > 1 else ""),
            f"{mean(head[-1] for head in heads):.3f}" if all(heads) else "",
            f"{mean(sum(line['seconds'] for line in rounds) for rounds in group) / 60:.1f}",
            f"{sum(line['bytes'] for line in group[0]) / 1e3:.0f}",
        )
    Console().print(printed)


if __name__ == "__main__":
    main()
