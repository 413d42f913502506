"""The code beside each .proto file is what ``make proto`` makes of it."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PROTOS = [str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("*/dpbitfit_*/**/*.proto"))]


@pytest.mark.parametrize("proto", PROTOS)
def test_generated_code_is_up_to_date(proto: str, tmp_path: Path) -> None:
    assert f" {proto}" in (ROOT / "Makefile").read_text()
    pytest.importorskip("grpc_tools", reason="no grpcio-tools: it is in the group proto")
    source = ROOT / proto
    root, *package = Path(proto).parent.parts
    virtual = Path(*package, "generated")
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    command = ["-m", "grpc_tools.protoc", f"-I{virtual}={source.parent}", *outputs]
    subprocess.run([sys.executable, *command, str(virtual / source.name)], check=True)
    made = sorted((tmp_path / virtual).iterdir())
    assert len(made) == 3
    for file in made:
        assert file.read_text() == (ROOT / root / virtual / file.name).read_text()
