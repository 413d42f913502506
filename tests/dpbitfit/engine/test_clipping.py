"""No row is longer than the clipping norm, whatever it holds."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dpbitfit.engine.clipping import STABILITY, AbadiClipping, AutomaticClipping, FlatClipper
from dpbitfit.schema import variants_of

ROWS = arrays(np.float32, (5, 7), elements=st.floats(width=32, allow_nan=True))
CLIPPERS = [*variants_of(FlatClipper).values()]


@pytest.mark.parametrize("kind", CLIPPERS)
@given(rows=ROWS, norm=st.floats(1e-6, 1e6))
def test_no_row_is_longer_than_the_sensitivity(
    kind: type[AbadiClipping], rows: np.ndarray, norm: float
) -> None:
    clipper = kind(norm=norm)
    clipped = clipper.clip(torch.from_numpy(rows)).numpy()
    assert np.isfinite(clipped).all()
    assert (np.sqrt((clipped**2).sum(axis=1)) <= clipper.sensitivity).all()
    assert clipper.sensitivity == norm


@pytest.mark.parametrize("kind", CLIPPERS)
def test_ten_thousand_random_rows(kind: type[AbadiClipping]) -> None:
    generator = np.random.default_rng(0)
    scales = 10.0 ** generator.uniform(-6, 6, (10_000, 1))
    rows = (generator.standard_normal((10_000, 64)) * scales).astype(np.float32)
    assert np.linalg.norm(kind(norm=0.3).clip(torch.from_numpy(rows)), axis=1).max() <= 0.3


def test_abadi_leaves_short_rows_and_automatic_normalises() -> None:
    rows = np.array([[0.3, 0.4], [3.0, 4.0], [0.0, 0.0]], dtype=np.float32)
    flat, automatic = (
        kind(norm=1.0).clip(torch.from_numpy(rows)).numpy()
        for kind in (AbadiClipping, AutomaticClipping)
    )
    assert flat == pytest.approx(np.array([[0.3, 0.4], [0.6, 0.8], [0, 0]]), abs=1e-7)
    lengths = np.array([0.5, 5.0])
    assert np.linalg.norm(automatic[:2], axis=1) == pytest.approx(lengths / (lengths + STABILITY))
    assert not automatic[2].any()
