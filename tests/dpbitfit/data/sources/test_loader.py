"""What a site's own function may return; what is refused never quotes it."""

from collections.abc import Callable
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dpbitfit.data.tables import Table, read_table
from dpbitfit.errors import InputError
from dpbitfit.tasks.text_classification.settings import COLUMNS

LABELS = ("card", "loan", "1")
SECRET = "sensitive words"
GOOD = {"text": ["a", "b"], "label": ["card", "loan"], "who": ["p", "q"]}

Read = Callable[[Any], Table]


class NAType:
    """As pandas' missing value, which is neither equal to itself nor unequal."""

    def __bool__(self) -> bool:
        raise TypeError("boolean value of NA is ambiguous")


class NaTType(NAType):
    """As pandas' missing time."""


class Frame:
    """As a data frame of pandas: a name that is there twice gives a frame, not a series."""

    def __init__(self, names: list[Any], *columns: Any) -> None:
        self.columns, self._values = np.array(names, dtype=object), columns

    def __getitem__(self, name: Any) -> Any:
        places = [at for at, other in enumerate(self.columns) if other == name]
        return [name] * 2 if len(places) > 1 else self._values[places[0]]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Read:
    """Reads what a loader returns; an exception is raised by it."""

    def through(returned: Any) -> Table:
        def load() -> Any:
            if isinstance(returned, Exception):
                raise returned
            return returned

        monkeypatch.setattr(f"{__name__}.load_rows", load, raising=False)
        return read_table(f"{__name__}:load_rows", COLUMNS, LABELS, unit_column="who")

    return through


@pytest.mark.parametrize(
    "table",
    [
        GOOD,
        {name: np.array(values) for name, values in GOOD.items()},
        {**GOOD, "text": (text for text in GOOD["text"]), SECRET: None},
        {**GOOD, "text": np.array([b"a", b"b"])},
        pa.table(GOOD),
        Frame([*GOOD, 4], *GOOD.values(), [SECRET] * 2),
    ],
)
def test_columns_by_name_are_read(read: Read, table: Any) -> None:
    rows = read(table)
    assert rows.columns == {"text": ["a", "b"], "label": [0, 1]}
    assert rows.units == ["p", "q"]


def test_numbers_of_numpy_are_names(read: Read) -> None:
    rows = read({**GOOD, "label": np.array([1, 1]), "who": np.array([7.0, 8.0], np.float32)})
    assert (rows.columns["label"], rows.units) == ([2, 2], ["7", "8"])


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        (
            [{"text": SECRET, "label": "card", "who": "p"}] * 3,
            "returned a list: return the columns",
        ),
        (None, "returned a NoneType"),
        (SECRET, "returned a str"),
        (np.array([[SECRET]]), "returned a ndarray"),
        ({SECRET: ["a"], "text": ["b"]}, "no column 'label' among the 2 that it has"),
        (Frame([SECRET, "card", "p"], ["a"], ["b"], ["c"]), "no column 'text'"),
        (Frame(["text", "label", "who", "text"], *[["a"]] * 4), "there are 2 columns 'text'"),
        ({**GOOD, "who": ["p"]}, "different lengths"),
        ({**GOOD, "who": ["p", NAType()]}, "row 2: column 'who' is empty or NaN"),
        ({**GOOD, "who": ["p", NaTType()]}, "row 2: column 'who' is empty or NaN"),
        ({**GOOD, "who": [None, np.nan]}, "row 1: column 'who' is empty .* 2 rows in all"),
        ({**GOOD, "who": ["p", date(1950, 1, 1)]}, "row 2: .*'who' holds .* type date: write"),
        ({**GOOD, "who": np.array(["NaT"] * 2, "datetime64[D]")}, "row 1: column 'who' is empty"),
        ({**GOOD, "text": ["a", [SECRET]]}, "row 2: .*'text' holds .* type list: write it as text"),
        ({**GOOD, "text": ["a", b"\xff"]}, "row 2: column 'text' is no Unicode text"),
        ({**GOOD, "text": ["a", np.float64(2)]}, "row 2: column 'text' holds numbers"),
        (ValueError(SECRET), "ValueError was raised: see what raises it"),
        (KeyError(SECRET), "KeyError was raised"),
    ],
)
def test_what_cannot_be_used_is_said_by_its_kind(read: Read, returned: Any, reason: str) -> None:
    with pytest.raises(InputError, match=reason) as caught:
        read(returned)
    assert SECRET not in str(caught.value)
