"""What each kind of value in a site's policy must be."""

import os
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from dpbitfit.errors import DpbitfitError
from dpbitfit.ledger.events import AccountName
from dpbitfit.ledger.ledger import budget_facts, check_name
from dpbitfit.tasks.models import PACKAGED
from dpbitfit_client.policy.toml_table import Rule, between

METRICS = ("accuracy", "loss")
_TABLES = (".csv", ".jsonl", ".ndjson", ".parquet")
_LONGEST_SOCKET = 107  # bytes of a Unix socket's path
_LONGEST_NAME = 180  # the ledger's 200, less what an evaluation's name adds


def _passes(check: Callable[..., object], *values: Any) -> bool:
    try:
        check(*values)
    except DpbitfitError:
        return False
    return True


def _is_path(text: str) -> bool:
    return text.isprintable() and os.path.isabs(text)


def _is_ledger(text: str) -> bool:
    if "://" not in text:
        return _is_path(text)
    try:
        return sa.make_url(text).get_backend_name() == "postgresql"
    except (sa.exc.ArgumentError, ValueError):
        return False


def _is_labels(text: str) -> bool:
    if Path(text).suffix in (".json", ".txt"):
        return _is_path(text)
    return text.isprintable() and len({name.strip() for name in text.split(",")} - {""}) > 1


# A colon joins a dataset's name and "evaluation" in the ledger.
NAME = Rule[str](
    f"1 to {_LONGEST_NAME} printable characters without '/' or ':'",
    lambda text: (
        _passes(check_name, AccountName(text, text, text))
        and ":" not in text
        and len(text) <= _LONGEST_NAME
    ),
)
COLUMN = Rule[str](
    "a column's name, of at most 200 characters", lambda t: t.isprintable() and 0 < len(t) <= 200
)
UNIT = Rule[str](
    "a column's name without '/'; 'record' is the unit where no column is given",
    lambda text: _passes(check_name, AccountName(text, text, text)) and text != "record",
)
HEX = Rule[str](
    "64 hexadecimal digits", lambda text: re.fullmatch("[0-9a-fA-F]{64}", text) is not None
)
LEDGER = Rule[str]("an absolute path or a postgresql:// URL", _is_ledger)
SOCKET = Rule[str](
    f"an absolute path of at most {_LONGEST_SOCKET} bytes",
    lambda text: _is_path(text) and len(os.fsencode(text)) <= _LONGEST_SOCKET,
)
GROUP = Rule[str](
    "the name of a Unix group",
    lambda text: re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}", text) is not None,
)
FILE = Rule[str](
    f"an absolute path that ends in {', '.join(_TABLES)}",
    lambda text: _is_path(text) and text.lower().endswith(_TABLES),
)
LOADER = Rule[str](
    "package.module:function",
    lambda text: re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", text) is not None,
)
LABELS = Rule[str](
    "an absolute path that ends in .txt or .json, or at least two names as in 'a,b'", _is_labels
)
FOLDER = Rule[str](
    f"an absolute path of a folder, or one of {', '.join(PACKAGED)}",
    lambda text: _is_path(text) or text in PACKAGED,
)
STATE = Rule[str]("an absolute path of a folder", _is_path)
EPSILON = Rule[float](
    "an epsilon above 0, at most 10,000, of at most 64 digits",
    lambda value: _passes(budget_facts, 0.5, value),
)
DELTA = Rule[float](
    "a delta above 0 and below 1, of at most 64 digits",
    lambda value: _passes(budget_facts, value, 1.0),
)
NOISE = between(0.01, 1e6)
RATE = between(1e-9, 1)
DISTANCE = between(1e-3, 1e39)


def one_of(names: Collection[str]) -> Rule[str]:
    """One of some names."""
    return Rule(f"one of {', '.join(map(repr, names))}", lambda text: text in names)
