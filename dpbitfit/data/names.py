"""One spelling for what names a person, a site, a label or a column.

Two programs may write one name in several ways that look alike. Were they taken for
several units of privacy, a person would be protected as each of them only.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

_LEADING_ZEROS = re.compile(r"(?<![\d.])0+(?=\d)")
_NO_DECIMALS = re.compile(r"(?<=\d)\.0+$")


def canonical(name: str) -> str:
    """The name in its composed form, without invisible characters, outer and doubled blanks."""
    if not name.isascii():
        # Before composing: an invisible character between a letter and its accent parts them.
        visible = "".join(c for c in name if unicodedata.category(c) != "Cf")
        name = unicodedata.normalize("NFC", visible)
    return " ".join(name.split())


def count_look_alikes(names: Iterable[str]) -> int:
    """How many distinct names differ from another in case, leading zeros or ``.0`` only."""
    groups = Counter(_likeness(name) for name in set(names))
    return sum(count for count in groups.values() if count > 1)


def _likeness(name: str) -> str:
    return _LEADING_ZEROS.sub("", _NO_DECIMALS.sub("", name.casefold()))
