"""One mutant's trial: its tests in an undamaged copy of the tree, and in a damaged one."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from . import DoesNotApply, Mutant

KILLED, SURVIVED = "killed", "SURVIVED"
DOES_NOT_APPLY, BASELINE_FAILS = "does not apply", "baseline fails"
NO_VERDICT = "no verdict"  # the tests could not be run, or took too long

# Of a mutant that is broken rather than wrong.
_BROKEN = ("NameError", "UnboundLocalError", "ImportError", "ModuleNotFoundError", "SyntaxError")
_PATH = (".", "client", "server")
_NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "out", "build", "dist")


@dataclass(frozen=True)
class Result:
    """What became of a mutant; ``reason`` names the test that killed it, or what was wrong."""

    name: str
    why: str
    verdict: str
    reason: str
    seconds: float


class Trials:
    """Runs mutants side by side in copies of ``root`` below ``folder``."""

    def __init__(self, root: Path, folder: Path, jobs: int, seconds: float) -> None:
        self._folder, self._seconds = folder, seconds
        self._clean = folder / "clean"
        shutil.copytree(root, self._clean, ignore=_NOT_COPIED)
        self._pool = ThreadPoolExecutor(jobs)
        self._running: set[subprocess.Popen[str]] = set()
        self._baselines: dict[tuple[str, ...], Future[tuple[str, str]]] = {}

    def start(self, mutants: Sequence[Mutant]) -> list["Future[Result]"]:
        """Begin each mutant's trial; those that share tests share one run without damage."""
        for one in mutants:  # first, so that nothing waits for what has not begun
            if one.tests not in self._baselines:
                tree = self._folder / f"baseline-{len(self._baselines)}"
                self._baselines[one.tests] = self._pool.submit(self._baseline, one.tests, tree)
        return [self._pool.submit(self._try, one) for one in mutants]

    def stop(self) -> None:
        """End what still runs."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in list(self._running):
            _kill(process)
        self._pool.shutdown()

    def _baseline(self, tests: tuple[str, ...], tree: Path) -> tuple[str, str]:
        shutil.copytree(self._clean, tree)
        return self._pytest(tree, tests)

    def _try(self, mutant: Mutant) -> Result:
        began = time.monotonic()

        def result(verdict: str, reason: str) -> Result:
            return Result(mutant.name, mutant.why, verdict, reason, time.monotonic() - began)

        tree = self._folder / mutant.name
        shutil.copytree(self._clean, tree)
        try:
            mutant.apply(tree)
        except DoesNotApply as error:
            return result(DOES_NOT_APPLY, str(error))
        verdict, reason = self._baselines[mutant.tests].result()
        if verdict != SURVIVED:
            return result(BASELINE_FAILS, reason)
        return result(*self._pytest(tree, mutant.tests))

    def _pytest(self, tree: Path, tests: Sequence[str]) -> tuple[str, str]:
        """Whether some tests fail in a tree, and the first that did."""
        report = tree / "report.xml"
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"),
                *("--basetemp", str(tree / "tmp"), "--junitxml", str(report), *tests),
            ],
            cwd=tree,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(str(tree / part) for part in _PATH),
                "OMP_NUM_THREADS": "1",  # the runs share the cores
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # so that what a test has started ends with it
        )
        self._running.add(process)
        try:
            output, _ = process.communicate(timeout=self._seconds)
        except subprocess.TimeoutExpired:
            return NO_VERDICT, f"not done after {self._seconds:g} seconds"
        finally:
            _kill(process)
            if process.stdout is not None:  # of one that took too long
                process.stdout.close()
            self._running.discard(process)
        if process.returncode == 0:
            return SURVIVED, ""
        last = output.strip().splitlines()[-1:] or [""]
        if process.returncode != 1:  # interrupted, could not be collected, no such test
            return NO_VERDICT, f"pytest ended with {process.returncode}: {last[0]}"
        for case in ElementTree.parse(report).iter("testcase"):
            failure = case.find("failure")
            if failure is not None:
                message = failure.get("message", "")
                broken = message.startswith(_BROKEN)
                return (NO_VERDICT, message) if broken else (KILLED, case.get("name", ""))
        return NO_VERDICT, f"no test failed: {last[0]}"  # an error before a test began


def _kill(process: "subprocess.Popen[str]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
