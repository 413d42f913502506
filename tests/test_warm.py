"""A warm process is what a fresh one would be: its words, environment, folder, signals, status."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from .support import warm


def test_it_has_words_environment_and_folder_of_its_own(tmp_path: Path) -> None:
    code = "import os, sys; print(sys.argv[1:], os.getcwd(), dict(os.environ)); sys.exit(3)"
    done = warm.run(code, "a word", cwd=tmp_path, env={"NAME": "value"})
    assert done.stdout == f"['a word'] {tmp_path} {{'NAME': 'value'}}\n"
    assert (done.returncode, done.stderr) == (3, "")


def test_what_it_raises_ends_it() -> None:
    done = warm.run("raise ValueError('wrong')")
    assert done.returncode == 1
    assert done.stderr.endswith("ValueError: wrong\n")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it(number: signal.Signals) -> None:
    with warm.Process("import time; time.sleep(1000)") as process:
        assert process.poll() is None
        with pytest.raises(TimeoutError):
            process.wait(0.1)
        process.send_signal(number)
        assert process.wait(60) == -number
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


def test_a_program_starts_its_code_with_its_own_words(tmp_path: Path) -> None:
    code = "import os, sys; open('draft', 'w').write(sys.argv[1]); os.rename('draft', 'written')"
    warm.program(tmp_path / "tool", code)
    subprocess.run([tmp_path / "tool", "a word"], cwd=tmp_path, check=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "written").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert (tmp_path / "written").read_text() == "a word"
