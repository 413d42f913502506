"""A model split over two devices: ``split_cases``, in a process of their own."""

import subprocess
import sys
from pathlib import Path

CASES = Path(__file__).with_name("split_cases.py")


def test_a_model_on_two_devices() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CASES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
