"""How flat the planner's optimum is for the head: one rule changed at a time.

    python -m tests.benchmarks.head_settings --data DIR --set banking77 --epsilons 8,2,1

Four sites, the head alone. A row is a rule of ``dpbitfit.planner`` and what it was changed to;
the first is the rules as they are. Features are computed once.
"""

import argparse
import json
from pathlib import Path
from statistics import mean
from unittest import mock

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from dpbitfit import planner
from dpbitfit.tasks.attach import attach
from dpbitfit.tasks.registry import TEXT_CLASSIFICATION, resolve
from tests.benchmarks.data_sets import SETS, Data
from tests.benchmarks.utility import run

CHANGES = [
    {},
    *({"ROW_NOISE": value} for value in (0.15, 0.3, 1.2, 2.4)),
    *({"SUMS_SHARE": value} for value in (0.1, 0.5, 0.7)),
    *({"HEAD_ROUNDS": value} for value in (5, 10, 40)),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--set", default="banking77", choices=SETS)
    parser.add_argument("--epsilons", default="8,2,1")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("out/head-settings.json"))
    options = parser.parse_args()
    epsilons = [float(epsilon) for epsilon in options.epsilons.split(",")]
    data, results = SETS[options.set](options.data), []
    for change in track(CHANGES, console=Console(stderr=True)):
        with mock.patch.multiple(planner, **change):
            accuracy = [
                mean(
                    list(run(data, "head", epsilon, 4, seed))[-1]["accuracy"]
                    for seed in range(options.seeds)
                )
                for epsilon in epsilons
            ]
        results.append({"change": change, "accuracy": dict(zip(epsilons, accuracy, strict=True))})
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=2))
    printed = Table("rule", *(f"epsilon {epsilon:g}" for epsilon in epsilons))
    for result in results:
        name = ", ".join(f"{rule} {value:g}" for rule, value in result["change"].items())
        figures = (f"{accuracy:.3f}" for accuracy in result["accuracy"].values())
        printed.add_row(name or "as they are", *figures)
    Console().print(printed)
    print(f"squared length of the features in their main direction: {main_direction(data):.2f}")


def main_direction(data: Data) -> float:
    """The largest eigenvalue of the second moment of a set's features, of length 1 each."""
    kind = resolve(TEXT_CLASSIFICATION, {})
    task = attach(kind, "minilm", kind.Settings.checked(head="trained"), data.labels)
    features = task.features(task.records(data.training)).astype(np.float64)  # [n, d]
    return float(np.linalg.eigvalsh(features.T @ features / len(features))[-1])


if __name__ == "__main__":
    main()
