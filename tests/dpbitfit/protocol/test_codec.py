"""The codec gives back what it got, and refuses everything else."""

from contextlib import suppress

import numpy as np
import pytest
from flwr.common import Array, ArrayRecord
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dpbitfit.errors import ProtocolError
from dpbitfit.protocol.codec import decode, encode

vectors = hnp.arrays(
    np.float32, st.integers(1, 300), elements=st.floats(-1e6, 1e6, width=32, allow_nan=False)
)


@given(vectors)
def test_a_vector_survives(vector: np.ndarray) -> None:
    assert (decode(encode(vector), len(vector)) == vector).all()


@example(np.zeros(1, dtype=np.float32), b"(" + bytes(4))  # a header that NumPy cannot parse
@given(vectors, st.binary(max_size=400))
def test_a_damaged_payload_is_refused_or_is_a_valid_vector(
    vector: np.ndarray, noise: bytes
) -> None:
    array = encode(vector)["biases"]
    damaged = array.data[: len(array.data) - len(noise)] + noise
    record = ArrayRecord({"biases": Array(array.dtype, array.shape, array.stype, damaged)})
    with suppress(ProtocolError):
        assert np.isfinite(decode(record, len(vector))).all()


@given(vectors, st.data())
def test_a_header_that_is_another_in_one_byte_is_refused(
    vector: np.ndarray, data: st.DataObject
) -> None:
    array = encode(vector)["biases"]
    damaged = bytearray(array.data)
    damaged[data.draw(st.integers(0, len(damaged) - vector.nbytes - 1))] ^= data.draw(
        st.integers(1, 255)
    )
    record = ArrayRecord({"biases": Array(array.dtype, array.shape, array.stype, bytes(damaged))})
    with pytest.raises(ProtocolError):
        decode(record, len(vector))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ProtocolError, match="finite"):
        decode(encode(np.array([1, value], dtype=np.float32)), 2)


def test_another_size_type_norm_or_name_is_refused() -> None:
    vector = np.ones(4, dtype=np.float32)
    with pytest.raises(ProtocolError, match="5 float32"):
        decode(encode(vector), 5)
    with pytest.raises(ProtocolError, match="float32"):
        decode(ArrayRecord({"biases": Array(vector.astype(np.float64))}), 4)
    with pytest.raises(ProtocolError, match="norm"):
        decode(encode(vector), 4, max_norm=1.9)
    with pytest.raises(ProtocolError, match="exactly one"):
        decode(ArrayRecord({"weights": Array(vector)}), 4)


def test_a_payload_that_is_not_what_it_declares_is_refused() -> None:
    short = encode(np.ones(2, dtype=np.float32))["biases"].data
    record = ArrayRecord({"biases": Array("float32", (4,), "numpy.ndarray", short)})
    with pytest.raises(ProtocolError, match="length"):
        decode(record, 4)
