"""What the coordinator's tests share."""

import pytest
from dpbitfit_server import waiting

from ..support.grids import Clock


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Replies that never come are waited for in no time."""
    clock = Clock()
    monkeypatch.setattr(waiting, "time", clock)
    return clock
