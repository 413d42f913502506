"""What the documents point to is there."""

import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import ROOT
from .test_units import known_options

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


def commands(document: Path) -> Iterator[list[str]]:
    """The words of each of this project's commands in a document's blocks and code."""
    text = document.read_text().replace("\\\n", " ")
    blocks = re.findall(r"^```\w*\n(.*?)^```$|^( {4}\S.*)$", text, re.MULTILINE | re.DOTALL)
    inline = re.findall(r"(?<!`)`(dpbitfit [^`]+)`", text)
    for line in [*(line for pair in blocks for line in "".join(pair).splitlines()), *inline]:
        if found := re.search(r"(?:^|[ /])dpbitfit ((?:[a-z]|-h).*)", line):
            part = re.split(r" (?:\|+|&&|>>?|[12]>) ", found[1])[0].replace(" ...", "")
            yield ["dpbitfit", *shlex.split(part, comments=True)]


CURRENT = [path for path in DOCUMENTS if path.name != "CHANGELOG.md"]  # which tells what is gone
COMMANDS = sorted({" ".join(words) for document in CURRENT for words in commands(document)})


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_documents_is_one(command: str) -> None:
    options = [word for word in command.split() if word.startswith("--")]
    words = [word for word in command.split() if word not in options]
    assert {*options} <= {*known_options(words), "--help"}


PROGRAMS = re.findall(r"python -m (tests[\w.]+)", (ROOT / "docs" / "benchmarks.md").read_text())


@pytest.mark.parametrize("module", sorted({*PROGRAMS}))
def test_every_program_that_the_benchmarks_name_can_be_run(module: str) -> None:
    assert callable(importlib.import_module(module).main)
