"""Mutants: small damages to the code, each of which a test must notice.

Each ``NAME.toml`` beside this file is one mutant:

    why = "what would be wrong, in a line"
    file = "dpbitfit/engine/noise.py"
    old = "deviation / self.step"        # stands in the file exactly once
    new = "deviation / self.step / 2"
    tests = ["tests/dpbitfit/engine/test_noise.py"]

``python -m tests.mutants`` applies each to a copy of the tree, runs its tests
there and says whether they noticed. Run it after every change to the core.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

FOLDER = Path(__file__).parent


class DoesNotApply(Exception):
    """A mutant's text is not in the code any more, or its file is not a mutant's."""


@dataclass(frozen=True)
class Mutant:
    """One damage, and the tests that must notice it."""

    name: str
    why: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> Self:
        """The mutant of a file; DoesNotApply where a key is missing or is another's."""
        values = tomllib.loads(path.read_text())
        try:
            return cls(path.stem, tests=tuple(values.pop("tests")), **values)
        except (KeyError, TypeError) as error:
            raise DoesNotApply(f"{path.name}: {error}") from error

    def apply(self, tree: Path) -> None:
        """Damage the file in a copy of the tree; DoesNotApply unless it can be done once."""
        path = tree / self.file
        text = path.read_text() if path.is_file() else ""
        if (result := text.count(self.old)) != 1:
            raise DoesNotApply(f"its text stands in {self.file} {result} times")
        damaged = text.replace(self.old, self.new)
        try:
            compile(damaged, self.file, "exec")
        except SyntaxError as error:
            raise DoesNotApply(f"{self.file} is no Python any more: {error}") from error
        path.write_text(damaged)


def all_mutants(folder: Path = FOLDER) -> list[Mutant]:
    """Every mutant, by name."""
    return [Mutant.read(path) for path in sorted(folder.glob("*.toml"))]
