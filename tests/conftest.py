"""What every test may use."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def banking77() -> Path:
    """The banking77 folder; the test skips where it is absent."""
    folder = SHARED / "banking77"
    if not folder.exists():
        pytest.skip("the banking77 data set is not beside the checkout")
    return folder
