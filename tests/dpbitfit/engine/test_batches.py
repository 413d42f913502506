"""Micro-batches whose shape says nothing of who else is in them."""

import os
import subprocess
import sys
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dpbitfit.engine.batches import deterministic, filled, micro_batches, padded_length


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


def test_deterministic_algorithms_are_on_for_so_long_only() -> None:
    assert not torch.are_deterministic_algorithms_enabled()
    with deterministic():
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()


def test_torchs_own_transformer_layers_are_exact_without_gradients_too() -> None:
    """By themselves they leave out padding, and a record depends on how long the others are."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2).eval().requires_grad_(False)
    texts, tokens = torch.randn(64, 16, 32), torch.arange(64) % 13 + 4
    padding = torch.arange(16) >= tokens[:, None]  # [B, T]

    def first(batch: list[int]) -> Tensor:
        states: Tensor = encoder(texts[batch], src_key_padding_mask=padding[batch])
        return states[0, : tokens[0]]

    for mode in (torch.no_grad, torch.enable_grad):
        with deterministic(), mode():
            assert torch.equal(first([0] * 32), first([*range(32)]))


@pytest.mark.parametrize("mode", [None, "OFF"])
def test_mkl_is_asked_for_its_strict_mode_where_no_other_is_set(mode: str | None) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "MKL_CBWR"}
    environment |= {"MKL_CBWR": mode} if mode else {}
    code = "import os, dpbitfit.engine; print(os.environ['MKL_CBWR'])"
    command = [sys.executable, "-c", code]
    asked = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert asked.stdout.strip() == (mode or "AUTO,STRICT")
