"""A codec gives back what it got, and refuses everything else."""

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dpbitfit.errors import ProtocolError
from dpbitfit.protocol.codec import CODECS, Codec

vectors = hnp.arrays(
    np.float32, st.integers(1, 300), elements=st.floats(-1e6, 1e6, width=32, allow_nan=False)
)


@pytest.fixture(params=CODECS, scope="module")
def codec(request: pytest.FixtureRequest) -> Codec:
    return CODECS[request.param]


def test_the_registry_is_by_name() -> None:
    assert [codec.name for codec in CODECS.values()] == [*CODECS]


@given(vectors)
def test_a_vector_survives(codec: Codec, vector: np.ndarray) -> None:
    data = codec.encode(vector)
    assert (codec.decode(data, len(vector)) == vector).all()
    assert len(data) == codec.bytes_per_value * len(vector)


@given(vectors, st.binary(max_size=400))
def test_a_damaged_payload_is_refused_or_is_a_valid_vector(
    codec: Codec, vector: np.ndarray, noise: bytes
) -> None:
    data = codec.encode(vector)
    damaged = data[: len(data) - len(noise)] + noise
    with suppress(ProtocolError):
        assert np.isfinite(codec.decode(damaged, len(vector))).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(codec: Codec, value: float) -> None:
    with pytest.raises(ProtocolError, match="finite"):
        codec.decode(codec.encode(np.array([1, value], dtype=np.float32)), 2)


def test_another_size_or_norm_is_refused(codec: Codec) -> None:
    data = codec.encode(np.ones(4, dtype=np.float32))
    for size in (0, 3, 5):
        with pytest.raises(ProtocolError, match=f"not {size} "):
            codec.decode(data, size)
    with pytest.raises(ProtocolError, match="not 4 "):
        codec.decode(data[:-1], 4)
    with pytest.raises(ProtocolError, match="norm"):
        codec.decode(data, 4, max_norm=1.9)
    assert codec.decode(data, 4, max_norm=2.1).sum() == 4
