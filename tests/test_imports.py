"""Which package may import which, and what an import may pull in."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import ROOT

FOLDERS = {
    "dpbitfit": ROOT,
    "dpbitfit_client": ROOT / "client",
    "dpbitfit_server": ROOT / "server",
    "dpbitfit_monitor": ROOT / "server",
}

# What Alembic runs, and the one module of the server that computes with a model.
APART = ("dpbitfit.ledger.migrations", "dpbitfit_server.central_evaluation")


def modules(package: str) -> Iterator[tuple[str, Path]]:
    """The names and files of a package's modules; ``dpbitfit.ledger`` is a package too."""
    folder = FOLDERS[package.partition(".")[0]]
    for file in sorted((folder / package.replace(".", "/")).rglob("*.py")):
        parts = file.relative_to(folder).with_suffix("").parts
        yield ".".join(parts).removesuffix(".__init__"), file


def imported(file: Path, name: str) -> Iterator[str]:
    """The modules that a module imports anywhere in it, in functions too."""
    package = name if file.stem == "__init__" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level]
            module = [node.module] if node.module else []
            yield ".".join([*above, *module] if node.level else module)


@pytest.mark.parametrize("package", FOLDERS)
def test_the_core_imports_no_role_and_no_role_another(package: str) -> None:
    wrong = [
        f"{name} imports {other}"
        for name, file in modules(package)
        for other in imported(file, name)
        if other.partition(".")[0] in FOLDERS.keys() - {"dpbitfit", package}
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("packages", "absent"),
    [
        (["dpbitfit_server", "dpbitfit_monitor", "dpbitfit.ledger"], ["torch", "transformers"]),
        (
            ["dpbitfit.engine", "dpbitfit.accounting", "dpbitfit.tasks", "dpbitfit.data"],
            ["flwr"],
        ),
        # They take seconds, and most processes compute no epsilon.
        (["dpbitfit.engine", "dpbitfit.accounting", "dpbitfit.tasks"], ["dp_accounting"]),
    ],
    ids=["coordinator without torch", "method without flower", "training without accountants"],
)
def test_what_a_package_has_no_need_of_is_not_imported(
    packages: list[str], absent: list[str]
) -> None:
    names = [name for package in packages for name, _ in modules(package)]
    names = [name for name in names if not name.startswith(APART)]
    assert len(names) > 2 * len(packages)
    lines = [f"import importlib, sys\nfor name in {names}: importlib.import_module(name)"]
    lines += [f"assert not {set(absent)} & sys.modules.keys()"]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)
