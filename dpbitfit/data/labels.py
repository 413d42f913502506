"""The public label set, as it is written down."""

import json
from pathlib import Path

from dpbitfit.data.names import canonical
from dpbitfit.data.sources.formats import is_file
from dpbitfit.data.sources.text_files import UNREADABLE, open_text, reason
from dpbitfit.errors import InputError

_FILES = (".json", ".txt")


def is_label_file(spec: str) -> bool:
    """Whether a label set is in a file, by its name; else the names themselves are given."""
    return spec.lower().endswith(_FILES)


def read_labels(spec: str) -> tuple[str, ...]:
    """The public label set: ``a,b,c``, a JSON list, or a text file with one a line.

    It is empty for an empty ``spec``, of a task that has no label. Names are in their
    canonical form, as the labels of records are. Raises InputError for a file that cannot
    be read, for a name that is there twice, for fewer than two.
    """
    if not spec:
        return ()
    names = _in_file(spec) if is_label_file(spec) else spec.split(",")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{spec}: the label set must be a list of names")
    if not is_label_file(spec) and (is_file(spec) or Path(spec).is_file()):
        raise InputError(f"{spec}: a label set is a .txt file with one a line, or a .json list")
    labels = [label for label in map(canonical, names) if label]
    if len(labels) < 2:
        raise InputError("the label set needs at least two labels")
    for number, label in enumerate(labels, start=1):
        first = labels.index(label) + 1
        if first < number:  # by number: what was taken for a label set may be records
            raise InputError(f"the label set names a label twice, as number {first} and {number}")
    return tuple(labels)


def _in_file(path: str) -> object:
    try:
        with open_text(path, errors="strict", newline="\n") as file:
            text = file.read()
        # At line feeds only: other characters that end a line may be in a name.
        return json.loads(text) if path.lower().endswith(".json") else text.split("\n")
    except UNREADABLE as error:
        raise InputError(f"{path}: the label set cannot be read: {reason(error)}") from error
