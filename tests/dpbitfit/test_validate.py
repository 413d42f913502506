"""The bounds of every setting are those that the ledger and the accountants hold within."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from dpbitfit import validate
from dpbitfit.accounting.mechanism import Mechanism
from dpbitfit.errors import DpbitfitError
from dpbitfit.ledger.account import check_budget, check_name
from dpbitfit.ledger.events import AccountName

TYPES = {
    name: kind
    for name, kind in vars(validate).items()
    if type(kind) is type(validate.Delta)  # of Annotated
}


def accepts(kind: Any, value: object) -> bool:
    try:
        TypeAdapter(kind).validate_python(value)
    except ValidationError:
        return False
    return True


def passes(check: Callable[..., object], *values: Any) -> bool:
    try:
        check(*values)
    except DpbitfitError:
        return False
    return True


NUMBERS = st.one_of(st.floats(), st.floats(0, 2), st.floats(9_999, 10_001))


@given(NUMBERS)
@example(0.01)
@example(1e6)
@example(1e-9)
@example(1.0)
def test_noise_and_rate_have_the_accountants_bounds(value: float) -> None:
    assert accepts(validate.NoiseMultiplier, value) == passes(Mechanism, value, 0.5)
    assert accepts(validate.SamplingRate, value) == passes(Mechanism, 1.0, value)


@given(NUMBERS)
@example(10_000.0)
@example(1.0)
@example(1e-62)
@example(1e-63)
def test_epsilon_and_delta_have_the_ledgers_bounds(value: float) -> None:
    assert accepts(validate.Epsilon, value) == passes(check_budget, 0.5, value)
    assert accepts(validate.Delta, value) == passes(check_budget, value, 1.0)


@given(st.one_of(st.text(), st.text("ab/:", min_size=178, max_size=202)))
def test_names_are_those_that_the_ledger_takes(value: str) -> None:
    taken = passes(check_name, AccountName(value, value, value))
    assert accepts(validate.Name, value) == taken
    if accepts(validate.PlainName, value):
        evaluation = f"{value}:evaluation"
        assert passes(check_name, AccountName(value, evaluation, value))


@pytest.mark.parametrize("name", TYPES)
def test_no_value_is_converted(name: str) -> None:
    """Of another type: a truth value is no number, and digits in a text are none."""
    kind = TYPES[name]
    for value in (True, None, b"1", [1], {}, float("nan"), float("inf"), 10**400):
        assert not accepts(kind, value)
    assert not accepts(kind, 1 if kind.__origin__ is str else "1")
    assert kind.__metadata__[0].description.endswith(".")


def test_types_need_neither_torch_nor_flower() -> None:
    code = (
        "import sys, dpbitfit.validate, dpbitfit.faults;"
        "sys.exit(', '.join({'torch', 'transformers', 'flwr'} & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
