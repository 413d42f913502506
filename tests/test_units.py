"""The units for systemd: it knows every setting, and each keeps its process from the others."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))
# By the names that systemd has for what it looks at.
KEPT = {
    "User=/DynamicUser=",
    "UMask=",
    "ProtectProc=",
    "ProtectSystem=",
    "PrivateTmp=",
    "NoNewPrivileges=",
    "CapabilityBoundingSet=~CAP_SYS_PTRACE",
}

each_unit = pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)


def analyze(*words: str | Path) -> "subprocess.CompletedProcess[str]":
    analyzer = shutil.which("systemd-analyze")
    if analyzer is None:
        pytest.skip("no systemd-analyze: it is in Debian's package systemd")
    return subprocess.run([analyzer, *words], capture_output=True, text=True)


@each_unit
def test_systemd_knows_every_setting(unit: Path) -> None:
    said = analyze("verify", unit).stderr.splitlines()
    elsewhere = "is not executable: No such file or directory"  # the programs are at a site
    assert [line for line in said if not line.endswith(elsewhere)] == []


@each_unit
def test_a_process_sees_and_may_do_only_its_own(unit: Path) -> None:
    done = analyze("security", "--offline=true", "--json=short", unit)
    kept = {one["name"] for one in json.loads(done.stdout) if one["set"]}
    assert KEPT - kept == set()
    assert ("PrivateNetwork=" in kept) == (unit.stem == "dpbitfit-guard")
