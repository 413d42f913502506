"""What looks alike is one name; what only resembles another is counted."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpbitfit.data.names import canonical, count_look_alikes


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("Müller", unicodedata.normalize("NFD", "Müller")),
        ("P1", "P1\u200b"),
        ("P1", "\ufeffP1"),
        ("P1", "P\u00ad1"),
        ("Müller", "Mu\u200d\u0308ller"),
        ("Ann Bo", "Ann  Bo"),
        ("Ann Bo", " Ann\u00a0Bo\t"),
    ],
)
def test_spellings_that_look_alike_are_one_name(name: str, other: str) -> None:
    assert canonical(name) == canonical(other) == name


@pytest.mark.parametrize(
    ("name", "other"),
    [("P1", "p1"), ("7", "007"), ("1", "1.0"), ("P1", "P10"), ("Muller", "Müller"), ("ann", "Ann")],
)
def test_what_can_be_told_apart_stays_two_names(name: str, other: str) -> None:
    assert canonical(name) != canonical(other)


@given(st.text())
def test_a_canonical_name_is_its_own_canonical_name(name: str) -> None:
    assert canonical(canonical(name)) == canonical(name)
    assert canonical(unicodedata.normalize("NFD", name)) == canonical(name)


@pytest.mark.parametrize(
    ("names", "alike"),
    [
        (["P1", "p1", "P2"], 2),
        (["7", "007", "07", "8"], 3),
        (["1", "1.0", "1.00", "2"], 3),
        (["P007", "p7", "P70"], 2),
        (["1.05", "1.5", "10", "1", "100", "P1", "P1", "0", "00.5"], 0),
        ([], 0),
    ],
)
def test_names_that_resemble_another_are_counted_once_each(names: list[str], alike: int) -> None:
    assert count_look_alikes(names) == alike
