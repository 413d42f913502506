"""Results that are the same each time, whoever else is computed with."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def deterministic() -> Iterator[None]:
    """Only algorithms whose result is the same each time, on every device, and in all of float32.

    That is neither with TF32, which rounds factors to 10 bits, nor with sums in bfloat16, nor
    with what cuDNN times to be the fastest today, nor with torch's own transformer layers' way
    without gradients: it computes all tokens of a batch in one product, whose kernel follows
    from their number. Nor is it on several threads of a CPU: they part a tensor where its size
    says, and exp, tanh and what is made of them round the last few values of each part otherwise.
    """
    before = torch.are_deterministic_algorithms_enabled()
    fast = torch.backends.mha.get_fastpath_enabled()
    threads = torch.get_num_threads()
    settings = [(torch.backends.cudnn, "benchmark", False), *_full_precision()]
    old = [(place, name, getattr(place, name)) for place, name, _ in settings]
    torch.use_deterministic_algorithms(True)
    torch.backends.mha.set_fastpath_enabled(False)
    torch.set_num_threads(1)
    try:
        for place, name, value in settings:
            setattr(place, name, value)
        yield
    finally:
        for place, name, value in old:
            setattr(place, name, value)
        torch.use_deterministic_algorithms(before)
        torch.backends.mha.set_fastpath_enabled(fast)
        torch.set_num_threads(threads)


def _full_precision() -> list[tuple[Any, str, Any]]:
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    sums = (matmul, "allow_bf16_reduced_precision_reduction", False)
    if hasattr(matmul, "fp32_precision"):
        places = (matmul, cudnn.conv, cudnn.rnn)
        return [sums, *((place, "fp32_precision", "ieee") for place in places)]
    return [sums, *((place, "allow_tf32", False) for place in (matmul, cudnn))]  # before torch 2.9
