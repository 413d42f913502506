"""Page tokens lead to their own list's page, or nowhere."""

import pytest
from dpbitfit_monitor import cursors
from hypothesis import given
from hypothesis import strategies as st

from dpbitfit.errors import InputError

texts = st.text(max_size=50)


@given(scope=texts, position=texts)
def test_a_token_gives_its_position_back(scope: str, position: str) -> None:
    assert cursors.decode(scope, cursors.encode(scope, position)) == position


@given(scope=texts, other=texts, position=texts)
def test_a_token_is_valid_for_its_list_only(scope: str, other: str, position: str) -> None:
    if scope != other:
        with pytest.raises(InputError):
            cursors.decode(other, cursors.encode(scope, position))


@given(scope=texts, position=texts, at=st.integers(min_value=0), letter=st.characters())
def test_a_changed_token_is_refused(scope: str, position: str, at: int, letter: str) -> None:
    token = cursors.encode(scope, position)
    at %= len(token)
    changed = token[:at] + letter + token[at + 1 :]
    if changed != token:
        with pytest.raises(InputError):
            cursors.decode(scope, changed)


@given(scope=texts, token=st.text(min_size=1) | st.binary(min_size=1).map(repr))
def test_what_is_no_token_is_refused(scope: str, token: str) -> None:
    with pytest.raises(InputError):
        cursors.decode(scope, token)


def test_a_token_is_written_in_one_way_only() -> None:
    token = cursors.encode("accounts", "a")
    assert token.endswith("==")
    for other in (f"{token[:-3]}{chr(ord(token[-3]) + 1)}==", token.rstrip("="), f"{token} "):
        with pytest.raises(InputError):
            cursors.decode("accounts", other)


def test_no_token_is_the_beginning() -> None:
    assert cursors.decode("any", "") == ""
    with pytest.raises(InputError):
        cursors.decode("any", "A" * 10**6)
