"""What the documents point to is there."""

import importlib
import re
from pathlib import Path

import pytest

from .conftest import ROOT

FOLDERS = ("docs", "examples", "deploy", "tests")
DOCUMENTS = sorted(
    {*ROOT.glob("*.md"), *(path for name in FOLDERS for path in (ROOT / name).rglob("*.md"))}
)


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading_of_it(document: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


PROGRAMS = re.findall(r"python -m (tests[\w.]+)", (ROOT / "docs" / "benchmarks.md").read_text())


@pytest.mark.parametrize("module", sorted({*PROGRAMS}))
def test_every_program_that_the_benchmarks_name_can_be_run(module: str) -> None:
    assert callable(importlib.import_module(module).main)
