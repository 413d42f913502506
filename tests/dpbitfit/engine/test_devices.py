"""A device is the machine's own choice, is there and works, and computes in all of float32."""

import os
import re
from typing import Any

import pytest
import torch

from dpbitfit.engine import devices
from dpbitfit.engine.determinism import deterministic
from dpbitfit.errors import InputError, ModelError
from dpbitfit.plan import Plan
from dpbitfit.protocol import messages
from dpbitfit.schema import Part

CUDA = torch.cuda.is_available()
VARIABLE = "CUBLAS_WORKSPACE_CONFIG"


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """A machine that has two; which of them were tried."""
    tried: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(devices, "require_working", tried.append)
    monkeypatch.setenv(VARIABLE, ":16:8")
    return tried


def test_a_gpu_that_is_not_there_is_an_error_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.choose("cpu") == devices.choose("auto") == torch.device("cpu")
    for name in ("cuda", "cuda:0", "cuda:3"):
        with pytest.raises(InputError, match=f"'{name}'.*finds no GPU.*or choose 'cpu'"):
            devices.choose(name)


@pytest.mark.parametrize("name", ["", "gpu", "mps", "cpu:0", "cuda:x", "cuda:-1", "cuda:0,1"])
def test_what_is_no_device_is_named(two_gpus: list[torch.device], name: str) -> None:
    with pytest.raises(InputError, match="must be 'cpu', 'auto', 'cuda' or 'cuda:N'"):
        devices.choose(name)
    assert two_gpus == []


def test_the_gpu_that_is_named_is_tried(two_gpus: list[torch.device]) -> None:
    names = ["cpu", "auto", "cuda", "cuda:1"]
    chosen = [str(devices.choose(name)) for name in names]
    assert chosen == ["cpu", "cuda:0", "cuda:0", "cuda:1"]
    assert [str(device) for device in two_gpus] == ["cuda:0", "cuda:0", "cuda:1"]
    with pytest.raises(InputError, match="there are 2 GPUs, numbered from 0"):
        devices.choose("cuda:2")


def test_cublas_is_set_to_repeat_itself_before_it_starts(
    two_gpus: list[torch.device], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE)
    devices.choose("cuda")
    assert os.environ[VARIABLE] == ":4096:8"
    monkeypatch.setenv(VARIABLE, ":0:0")
    with pytest.raises(InputError, match=VARIABLE):
        devices.choose("cuda")
    assert devices.choose("cpu").type == "cpu"


def test_a_gpu_that_fails_is_an_error_not_another_device(
    two_gpus: list[torch.device], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(device: torch.device) -> None:
        raise ModelError(f"{device} does not work")

    monkeypatch.setattr(devices, "require_working", broken)
    for name in ("auto", "cuda:1"):
        with pytest.raises(InputError, match="does not work"):
            devices.choose(name)


@pytest.mark.skipif(CUDA, reason="torch.cuda.is_available(): the device would work")
def test_a_device_that_computes_nothing_is_noticed() -> None:
    devices.require_working(torch.device("cpu"))
    with pytest.raises((ModelError, AssertionError)):
        devices.require_working(torch.device("cuda", 0))


@pytest.mark.skipif(not CUDA, reason="torch.cuda.is_available()")
def test_a_device_that_is_there_works_and_is_described() -> None:
    device = devices.choose("cuda")
    devices.require_working(device)
    assert "compute capability" in devices.describe(device)


def precision() -> list[Any]:
    cudnn: Any = torch.backends.cudnn
    places = (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn)
    sums = torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
    return [cudnn.benchmark, sums, *(place.fp32_precision for place in places)]


def test_no_factor_is_rounded_to_tf32_and_no_kernel_is_chosen_by_its_time() -> None:
    matmul: Any = torch.backends.cuda.matmul
    old = matmul.fp32_precision
    torch.backends.cudnn.benchmark, matmul.fp32_precision = True, "tf32"
    try:
        before = precision()
        with deterministic():
            assert precision() == [False, False, "ieee", "ieee", "ieee"]
        assert precision() == before
    finally:
        torch.backends.cudnn.benchmark, matmul.fp32_precision = False, old


def test_nothing_that_a_coordinator_sends_has_a_device() -> None:
    kinds = [kind for kind in vars(messages).values() if isinstance(kind, type)]
    kinds = [Plan, *(kind for kind in kinds if issubclass(kind, Part))]
    assert len(kinds) > 5
    for kind in kinds:
        schema = str(kind.model_json_schema())
        assert not {"device", "precision"} & set(re.findall(r"\w+", schema)), kind
