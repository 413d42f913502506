"""A CPU that is taken to have units for bfloat16, so that small models can be tested on any."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch


@contextmanager
def units_for_bfloat16(has: bool = True) -> Iterator[None]:
    """Whether torch says that there are some."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": has}, raising=False)
        yield
