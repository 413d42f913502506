"""The set of mutants follows the code; and the command that tries them judges rightly."""

from pathlib import Path

import pytest

from .conftest import ROOT
from .mutants import Mutant, all_mutants
from .mutants.trial import BASELINE_FAILS, DOES_NOT_APPLY, KILLED, NO_VERDICT, SURVIVED, Trials


@pytest.mark.parametrize("mutant", all_mutants(), ids=lambda mutant: mutant.name)
def test_a_mutant_applies_to_the_code_and_its_tests_exist(mutant: Mutant, tmp_path: Path) -> None:
    assert mutant.old != mutant.new
    copy = tmp_path / mutant.file
    copy.parent.mkdir(parents=True)
    copy.write_text((ROOT / mutant.file).read_text())
    mutant.apply(tmp_path)
    assert mutant.tests
    for test in mutant.tests:
        file, _, name = test.partition("::")
        assert f"def {name.partition('[')[0]}" in (ROOT / file).read_text()


CODE = "def double(x):\n    return 2 * x\n\ndef unused():\n    return 1 + 1\n"
TESTS = {
    "good": "from code_here import double\ndef test_double():\n    assert double(2) == 4\n",
    "bad": "def test_nothing():\n    assert False\n",
    "setup": (
        "import pytest\nfrom code_here import double\n"
        "@pytest.fixture\ndef four():\n    assert double(2) == 4\n"
        "def test_four(four):\n    pass\n"
    ),
}
CASES = {
    "a damage that a test notices": ("2 * x", "3 * x", "good", KILLED),
    "one that none notices": ("1 + 1", "3", "good", SURVIVED),
    "code that has changed": ("4 * x", "3 * x", "good", DOES_NOT_APPLY),
    "a text that stands there twice": ("return", "yield", "good", DOES_NOT_APPLY),
    "what is no Python": ("2 * x", "2 * (x", "good", DOES_NOT_APPLY),
    "tests that fail without it": ("2 * x", "3 * x", "bad", BASELINE_FAILS),
    "a name that there is not": ("2 * x", "2 * y", "good", NO_VERDICT),
    "a file that cannot be imported": ("def double", "def twice", "good", NO_VERDICT),
    "an error before the test": ("2 * x", "3 * x", "setup", NO_VERDICT),
}


def test_each_mutant_gets_its_verdict(tmp_path: Path) -> None:
    """Only a test that fails kills; what could not be run says nothing."""
    root, folder = tmp_path / "root", tmp_path / "copies"
    (root / "tests").mkdir(parents=True)
    (root / "code_here.py").write_text(CODE)
    for name, text in TESTS.items():
        (root / "tests" / f"test_{name}.py").write_text(text)
    mutants = [
        Mutant(f"m{number}", why, "code_here.py", old, new, (f"tests/test_{tests}.py",))
        for number, (why, (old, new, tests, _)) in enumerate(CASES.items())
    ]
    trials = Trials(root, folder, jobs=2, seconds=300)
    try:
        results = [one.result() for one in trials.start(mutants)]
    finally:
        trials.stop()
    assert {one.why: one.verdict for one in results} == {
        why: verdict for why, (*_, verdict) in CASES.items()
    }
    assert results[0].reason == "test_double"
    assert (root / "code_here.py").read_text() == CODE


def test_a_trial_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "code_here.py").write_text(CODE)
    slow = "from code_here import double\nimport time\ndef test_it():\n    time.sleep(double(0))\n"
    (tmp_path / "root" / "test_slow.py").write_text(slow)
    endless = Mutant("m", "", "code_here.py", "2 * x", "3600", ("test_slow.py",))
    trials = Trials(tmp_path / "root", tmp_path / "copies", jobs=1, seconds=20)
    try:
        (result,) = [one.result() for one in trials.start([endless])]
    finally:
        trials.stop()
    assert (result.verdict, result.reason) == (NO_VERDICT, "not done after 20 seconds")
