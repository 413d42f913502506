"""``python -m tests.mutants [NAME ...]``: 0 where every mutant is killed, else 1."""

import argparse
import json
import os
import signal
import sys
import tempfile
from concurrent.futures import as_completed
from dataclasses import asdict
from pathlib import Path

from . import FOLDER, DoesNotApply, all_mutants
from .trial import KILLED, Result, Trials

ROOT = FOLDER.parents[1]


def main(arguments: list[str] | None = None) -> int:
    """Try the mutants that are named, or all; progress goes to standard error."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="mutants; none: all of them")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seconds", type=float, default=900, help="for one mutant's tests")
    asked = parser.parse_args(arguments)
    try:
        mutants = all_mutants()
    except DoesNotApply as error:
        parser.error(str(error))
    known = {one.name for one in mutants}
    if unknown := [name for name in asked.names if name not in known]:
        parser.error(f"there is no mutant {unknown[0]!r}")
    chosen = [one for one in mutants if not asked.names or one.name in asked.names]
    results: list[Result] = []
    for number in (signal.SIGINT, signal.SIGTERM):  # a background shell ignores the first
        signal.signal(number, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="mutants-", ignore_cleanup_errors=True) as folder:
        trials = Trials(ROOT, Path(folder), asked.jobs, asked.seconds)
        try:
            for done in as_completed(trials.start(chosen)):
                results.append(done.result())
                place = f"[{len(results)}/{len(chosen)}]"
                print(place, _line(results[-1]), file=sys.stderr, flush=True)
        finally:
            trials.stop()
    results.sort(key=lambda one: (one.verdict == KILLED, one.verdict, one.name))
    if asked.json:
        print(json.dumps([asdict(one) for one in results], indent=2))
    else:
        print("\n".join(map(_line, results)))
    return int(any(one.verdict != KILLED for one in results))


def _line(result: Result) -> str:
    return f"{result.verdict:15} {result.name:36} {result.seconds:5.0f} s  {result.reason}"


if __name__ == "__main__":
    sys.exit(main())
