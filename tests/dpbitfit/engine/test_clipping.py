"""No row is longer than the clipping norm, whatever it holds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dpbitfit.engine.clipping import STABILITY, clip
from dpbitfit.errors import InputError

ROWS = arrays(np.float32, (5, 7), elements=st.floats(width=32, allow_nan=True))
MODES = ["flat", "automatic"]


@pytest.mark.parametrize("mode", MODES)
@given(rows=ROWS, norm=st.floats(1e-6, 1e6))
def test_no_row_is_longer_than_the_norm(mode: str, rows: np.ndarray, norm: float) -> None:
    clipped = clip(rows, mode, norm)
    assert np.isfinite(clipped).all()
    assert (np.sqrt((clipped**2).sum(axis=1)) <= norm).all()


@pytest.mark.parametrize("mode", MODES)
def test_ten_thousand_random_rows(mode: str) -> None:
    generator = np.random.default_rng(0)
    scales = 10.0 ** generator.uniform(-6, 6, (10_000, 1))
    rows = (generator.standard_normal((10_000, 64)) * scales).astype(np.float32)
    assert np.linalg.norm(clip(rows, mode, 0.3), axis=1).max() <= 0.3


def test_flat_leaves_short_rows_and_automatic_normalises() -> None:
    rows = np.array([[0.3, 0.4], [3.0, 4.0], [0.0, 0.0]], dtype=np.float32)
    flat, automatic = clip(rows, "flat", 1.0), clip(rows, "automatic", 1.0)
    assert flat == pytest.approx(np.array([[0.3, 0.4], [0.6, 0.8], [0, 0]]), abs=1e-7)
    lengths = np.array([0.5, 5.0])
    assert np.linalg.norm(automatic[:2], axis=1) == pytest.approx(lengths / (lengths + STABILITY))
    assert not automatic[2].any()


def test_another_mode_is_refused() -> None:
    with pytest.raises(InputError, match="automatic or flat"):
        clip(np.zeros((1, 1), dtype=np.float32), "none", 1.0)
