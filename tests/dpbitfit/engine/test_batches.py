"""Micro-batches whose shape says nothing of who else is in them."""

from itertools import chain

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dpbitfit.engine.batches import filled, micro_batches, padded_length


@given(tokens=st.integers(1, 2000), most=st.integers(1, 2000))
def test_a_padded_length_holds_the_record_with_little_padding(tokens: int, most: int) -> None:
    length = padded_length(min(tokens, most), most)
    assert min(tokens, most) <= length <= most
    assert length <= max(8, 1.25 * tokens + 3)


def test_padded_lengths_are_few() -> None:
    lengths = sorted({padded_length(tokens, 128) for tokens in range(1, 129)})
    assert lengths == [8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128]


@given(
    lengths=st.lists(st.sampled_from([8, 12, 16]), min_size=1, max_size=60),
    canonical=st.sampled_from([1, 4, 16]),
    budget=st.integers(1, 300),
)
def test_micro_batches_hold_every_record_once_at_one_length_and_canonical_sizes(
    lengths: list[int], canonical: int, budget: int
) -> None:
    batches = list(micro_batches(range(len(lengths)), np.array(lengths), canonical, budget))
    assert sorted(chain(*batches)) == list(range(len(lengths)))
    for batch in batches:
        (length,) = {lengths[record] for record in batch}
        rows = filled(batch, canonical)
        assert rows[: len(batch)] == batch
        assert set(rows) == set(batch)
        assert len(rows) % canonical == 0
        assert len(rows) == canonical or len(rows) * length <= budget
