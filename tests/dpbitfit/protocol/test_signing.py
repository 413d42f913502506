"""Signed statements: only their own signer, purpose and content pass."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpbitfit.errors import ProtocolError
from dpbitfit.protocol.signing import Signer, Statement, verify

SIGNER = Signer(bytes(range(32)))
STATEMENT: Statement = {"key": "k1", "round": 3}

statements = st.dictionaries(st.text(max_size=5), st.text(max_size=5) | st.integers(), max_size=4)


@given(st.binary(min_size=32, max_size=32), st.text(max_size=9), statements)
def test_what_was_signed_is_verified(seed: bytes, purpose: str, statement: Statement) -> None:
    signer = Signer.from_hex(seed.hex())
    assert signer.public == Signer(seed).public
    assert len(signer.public) == 64
    reordered = dict(reversed(list(statement.items())))
    verify(signer.public, purpose, reordered, signer.sign(purpose, statement))


@given(statements, statements)
def test_no_other_statement_passes(statement: Statement, other: Statement) -> None:
    signature = SIGNER.sign("position", statement)
    if statement != other:
        with pytest.raises(ProtocolError):
            verify(SIGNER.public, "position", other, signature)


def test_a_number_is_not_its_text() -> None:
    with pytest.raises(ProtocolError):
        verify(SIGNER.public, "position", {"round": "3"}, SIGNER.sign("position", {"round": 3}))


def test_no_other_purpose_or_signer_passes() -> None:
    signature = SIGNER.sign("untouched", STATEMENT)
    verify(SIGNER.public, "untouched", STATEMENT, signature)
    with pytest.raises(ProtocolError):
        verify(SIGNER.public, "position", STATEMENT, signature)
    with pytest.raises(ProtocolError):
        verify(Signer(bytes(32)).public, "untouched", STATEMENT, signature)


@given(st.integers(0, 511))
def test_any_changed_bit_of_a_signature_is_noticed(bit: int) -> None:
    signature = bytearray.fromhex(SIGNER.sign("untouched", STATEMENT))
    signature[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ProtocolError):
        verify(SIGNER.public, "untouched", STATEMENT, signature.hex())


@pytest.mark.parametrize("text", ["", "zz", "00", "None", "é" * 64, "0" * 127])
def test_texts_that_are_no_key_or_signature_are_refused(text: str) -> None:
    with pytest.raises(ProtocolError):
        verify(text, "untouched", STATEMENT, SIGNER.sign("untouched", STATEMENT))
    with pytest.raises(ProtocolError):
        verify(SIGNER.public, "untouched", STATEMENT, text)
