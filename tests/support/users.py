"""Child processes that run as another user, even where that user cannot read this interpreter."""

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from ..conftest import ROOT

# Who owns the guard, who relays, and who is in neither's group.
GUARD, RELAY, STRANGER = "daemon", "games", "nobody"
_NEEDED = """
import glob, grpc, json, os, socket, sys
channel = grpc.insecure_channel("unix:/nonexistent")
try:
    channel.unary_unary("/a/b")(b"", timeout=5)  # what gRPC imports late is imported now
except grpc.RpcError:
    pass
channel.close()
"""
# A round of public text, so that whatever a guard imports late is imported now.
_GUARD_NEEDED = """
from dpbitfit_client import cli
from dpbitfit_client.guard import service
from tests.support import plans
from dpbitfit.data.tables import read_table
from dpbitfit.tasks.attach import attach
from dpbitfit.tasks.text_classification.settings import TextSettings
from dpbitfit.tasks.text_classification.task import TextClassification
from dpbitfit.ledger import AccountName, Ledger
from dpbitfit.accounting import composition, mechanism
from dpbitfit.engine.optimizers import OptimizerState
from dpbitfit.engine.training import train_round
import csv, tempfile
from pathlib import Path
with tempfile.TemporaryDirectory() as folder:
    data = Path(folder, "a.csv")
    data.write_text("text,label\\nhello there,a\\ngood bye,b\\n")
    table = read_table(str(data), TextClassification.columns, ("a", "b"))
    ledger = Ledger(str(Path(folder, "l.sqlite")), create=True)
    ledger.open_account(AccountName("a", "b", "c"), 1e-5, 1.0)
task = attach(TextClassification, "minilm", TextSettings(max_length=8), ("a", "b"))
phase = plans.phase(sampling_rate=0.5, rounds=1, steps_per_round=1)
train_round(
    task.model, task.layout, task.records(table), phase, 2, task.pretrained, OptimizerState()
)
composition.epsilon({mechanism.Mechanism(20.0, 0.1): 3}, 1e-5)
"""
_BECOME = """
import os
os.setgroups({groups})
os.setgid({gid})
os.setuid({uid})
os.environ["HOME"] = "/nonexistent"
"""


def entry(user: str) -> pwd.struct_passwd:
    """A user of this system; the test skips where there is none, or none may become it."""
    if os.geteuid() != 0:
        pytest.skip("only root can run processes as other users")
    try:
        return pwd.getpwnam(user)
    except KeyError:
        pytest.skip(f"this system has no user {user}")


def command(user: str, code: str, *groups: int, needed: str = _NEEDED) -> list[str]:
    """A command that runs Python code as another user, whose further groups are these."""
    result = entry(user)
    become = _BECOME.format(groups=list(groups), gid=result.pw_gid, uid=result.pw_uid)
    return [sys.executable, "-c", needed + become + code]


def guard_code(*groups: int) -> str:
    """Python code of the guard, which runs as its own user."""
    return command(GUARD, "cli.app()", *groups, needed=_GUARD_NEEDED)[-1]


_FRONT = """
import os, socket, threading
listening = socket.socket(socket.AF_UNIX)
listening.bind(FRONT)
listening.listen()
"""
_PASS_ON = """
def pump(one, other):
    try:
        while block := one.recv(65536):
            other.sendall(block)
    except OSError:
        pass
    for end in (one, other):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

while True:
    outside, _ = listening.accept()
    inside = socket.socket(socket.AF_UNIX)
    try:
        inside.connect(BEHIND)
    except OSError:
        outside.close()
        continue
    for ends in ((outside, inside), (inside, outside)):
        threading.Thread(target=pump, args=ends, daemon=True).start()
"""


def front_command(user: str, front: Path, behind: Path) -> list[str]:
    """Connections to ``front`` come to ``behind`` as this user's."""
    names = f"FRONT, BEHIND = {str(front)!r}, {str(behind)!r}\n"
    return command(user, _PASS_ON, needed=names + _FRONT)


def run(user: str, code: str, *groups: int, needed: str = _NEEDED) -> str:
    """What code prints that is run as another user, with this project's packages."""
    done = subprocess.run(
        command(user, code, *groups, needed=needed),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "client")))},
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
        cwd="/",
        check=True,
    )
    return done.stdout


def give(path: Path, user: str, mode: int) -> None:
    """Make a file or folder another user's."""
    result = entry(user)
    os.chown(path, result.pw_uid, result.pw_gid)
    path.chmod(mode)
