"""Every key is found on its line."""

import tomllib

import pytest
from dpbitfit_client.policy.toml_lines import lines_of_keys
from hypothesis import given
from hypothesis import strategies as st

from tests.support.policies import Key, keys, written

TRICKY = '''# comment = 1
top = "a # no comment = ["   # [not.a.table]

[ site . "the name" ]   # spaces and quotes
many = """
[fake]
fake = 1 \\"""
ends in quotes"""""
raw = \'\'\'
fake2 = '1'
\'\'\'
list = [  # ]
  "a", [1, 2.5],
  { inner = 1, "in two" = [ 1 ] },
]
when = 1979-05-27 07:32:00
dotted.key."a.b" = -inf
point = { x = 1, y = { z = "}" }, \'q.r\' = 3 }
quote = { x = """a"""", y = "b", z = \'\'\'a\'\'\'\', w = \'b\' }
after = 3
[[rows]]
first = 1
[[rows]]
first = 2
["tab\\u006Ce"]
empty = ""
none = \'\'
'''


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_keys_are_found_among_texts_that_look_like_keys(newline: str) -> None:
    text = TRICKY.replace("\n", newline)
    tomllib.loads(text)
    site = ("site", "the name")
    assert lines_of_keys(text) == {
        ("top",): 2,
        ("site",): 4,
        site: 4,
        (*site, "many"): 5,
        (*site, "raw"): 9,
        (*site, "list"): 12,
        (*site, "list", "inner"): 14,
        (*site, "list", "in two"): 14,
        (*site, "when"): 16,
        (*site, "dotted"): 17,
        (*site, "dotted", "key"): 17,
        (*site, "dotted", "key", "a.b"): 17,
        (*site, "point"): 18,
        (*site, "point", "x"): 18,
        (*site, "point", "y"): 18,
        (*site, "point", "y", "z"): 18,
        (*site, "point", "q.r"): 18,
        (*site, "quote"): 19,
        **{(*site, "quote", name): 19 for name in "xyzw"},
        (*site, "after"): 20,
        ("rows",): 21,
        ("rows", "first"): 22,
        ("table",): 25,
        ("table", "empty"): 26,
        ("table", "none"): 27,
    }


NAMES = st.text("ab.\"'# =[]-é\\\n", max_size=4)
SCALARS = st.one_of(
    st.integers(), st.booleans(), st.floats(), st.text("ab\"'#=[]{}\n\\", max_size=8)
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.dictionaries(NAMES, inner, max_size=4), max_leaves=20
)


@given(st.dictionaries(NAMES, VALUES, max_size=5))
def test_whatever_is_written_is_found_again(values: dict[str, object]) -> None:
    text, places = written(values)
    tomllib.loads(text)
    expected: dict[Key, int] = {key: places[key] for key in keys(values)}
    assert lines_of_keys(text) == expected
