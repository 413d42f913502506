"""``import dpbitfit``: what it offers, and what it does not import for that."""

import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import dpbitfit


@pytest.mark.parametrize("name", dpbitfit.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(dpbitfit, name).__name__ == name
    assert name in dir(dpbitfit)


def test_a_type_checker_sees_the_same_names() -> None:
    tree = ast.parse(Path(dpbitfit.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imported = [
        alias for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    ]
    assert sorted(alias.asname or "" for alias in imported) == dpbitfit.__all__


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: dpbitfit.AbadiClipping(norm=0), "norm: must be a number from 1e-09 to 1,000,000"),
        (lambda: dpbitfit.AutomaticClipping(norm=-1), "norm: must be a number from 1e-09"),
        (lambda: dpbitfit.PerLayer(nrom=1), "nrom: unknown; do you mean norm"),
        (lambda: dpbitfit.GroupwiseClipping(groups=3), "groups: must be"),
        (lambda: dpbitfit.Adam(learning_rate="much"), "learning_rate: must be a number from"),
    ],
)
def test_what_a_setting_cannot_be_is_an_error_of_our_own(
    make: Callable[[], object], says: str
) -> None:
    with pytest.raises(dpbitfit.InputError, match=says):
        make()


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'epsilons'"):
        dpbitfit.epsilons  # noqa: B018


def test_torch_is_imported_only_for_what_needs_it() -> None:
    code = (
        "import sys, dpbitfit\n"
        "heavy = lambda: {'torch', 'transformers', 'flwr'} & set(sys.modules)\n"
        "assert not heavy() and 'dp_accounting' not in sys.modules\n"
        "dpbitfit.epsilon({dpbitfit.Mechanism(1.0, 0.1): 10}, 1e-5), dpbitfit.calibrate\n"
        "dpbitfit.Ledger, dpbitfit.InputError\n"
        "assert not heavy(), heavy()\n"
        "dpbitfit.PrivateTrainer\n"
        "assert 'torch' in sys.modules and 'flwr' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
