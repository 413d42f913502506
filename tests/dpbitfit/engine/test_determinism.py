"""What deterministic algorithms are asked for, and for how long."""

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from dpbitfit.engine.determinism import deterministic


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
