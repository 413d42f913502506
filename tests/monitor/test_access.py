"""Tokens, sessions and attempts: who may sign in, and until when."""

from pathlib import Path

import pytest
from dpbitfit_monitor.page import access
from dpbitfit_monitor.page.access import Attempts, Sessions, Tokens, make_token
from hypothesis import given
from hypothesis import strategies as st

from dpbitfit.errors import InputError


class Time:
    now = 1e9

    def __call__(self) -> float:
        return self.now


def signed_in(path: Path, clock: Time) -> tuple[Sessions, str]:
    token, line = make_token("Dr. Jensen")
    path.write_text(line)
    tokens = Tokens(path)
    sessions = Sessions(tokens, clock)
    digest = tokens.known(token)
    assert digest is not None
    return sessions, sessions.begin(digest)


def test_a_token_is_known_by_its_digest_alone(tmp_path: Path) -> None:
    token, line = make_token("Dr. A. Jensen, DPO")
    other, _ = make_token("another")
    path = tmp_path / "tokens"
    path.write_text(f"# comment\n\n{line}\n")
    assert token not in line
    tokens = Tokens(path)
    digest = tokens.known(token)
    assert digest is not None
    assert tokens.holders()[digest] == "Dr. A. Jensen, DPO"
    for wrong in (other, "", token[:-1], f"{token}x", digest, line, "ü", "\ud800"):
        assert tokens.known(wrong) is None


@pytest.mark.parametrize("text", ["name", "name abc", f"name {'g' * 64}", f" {'a' * 64}", "\xff\n"])
def test_a_file_of_something_else_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError):
        Tokens(path)
    with pytest.raises(InputError):
        Tokens(tmp_path / "absent")


@pytest.mark.parametrize("name", ["", " ", "two\nlines", "x" * 101])
def test_a_name_fits_on_a_line(name: str) -> None:
    with pytest.raises(InputError):
        make_token(name)


def test_a_token_that_is_taken_out_of_the_file_ends_its_sessions(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    sessions, session = signed_in(path, Time())
    assert sessions.holder(session) == "Dr. Jensen"
    line = path.read_text()
    path.write_text("# no token")
    assert sessions.holder(session) is None
    path.write_text(line + "\n")
    assert sessions.holder(session) == "Dr. Jensen"
    path.unlink()
    assert sessions.holder(session) is None


def test_a_session_ends_by_itself_and_by_signing_out(tmp_path: Path) -> None:
    clock = Time()
    sessions, session = signed_in(tmp_path / "tokens", clock)
    clock.now += access.SESSION_SECONDS - 1
    assert sessions.holder(session) == "Dr. Jensen"
    sessions.end(session)
    assert sessions.holder(session) is None
    sessions, session = signed_in(tmp_path / "tokens", clock)
    clock.now += access.SESSION_SECONDS
    assert sessions.holder(session) is None


def test_no_other_value_is_a_session(tmp_path: Path) -> None:
    clock = Time()
    sessions, session = signed_in(tmp_path / "tokens", clock)
    others, _ = signed_in(tmp_path / "others", clock)
    until, rest = session.split(".", 1)
    assert others.holder(session) is None
    for forged in ("", ".", "...", session[:-1], f"{int(until) + 1}.{rest}", f"{session}.", rest):
        assert sessions.holder(forged) is None

    @given(st.text())
    def forge(text: str) -> None:
        assert sessions.holder(text) is None
        sessions.end(text)

    forge()
    assert sessions.holder(session) == "Dr. Jensen"


def test_too_many_wrong_tokens_block_an_address_for_a_while() -> None:
    clock = Time()
    attempts = Attempts(clock)
    for _ in range(access.MOST_FAILURES):
        assert attempts.is_allowed("2001:db8::1")
        attempts.failed("2001:db8::1")
        attempts.failed("192.0.2.1")
    assert not attempts.is_allowed("2001:db8::2")  # of the same network
    assert not attempts.is_allowed("192.0.2.1")
    for other in ("2001:db8:0:1::1", "192.0.2.2", "a name", ""):
        assert attempts.is_allowed(other)
    clock.now += access.FAILURE_SECONDS
    assert attempts.is_allowed("192.0.2.1")


def test_only_so_many_addresses_are_remembered() -> None:
    attempts = Attempts()
    for number in range(2 * access._MOST_ADDRESSES):
        attempts.failed(str(number))
    assert len(attempts._failures) == access._MOST_ADDRESSES
