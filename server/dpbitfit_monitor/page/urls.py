"""Addresses of accounts and runs, whatever their names are."""

from urllib.parse import quote

from dpbitfit.ledger import AccountName
from dpbitfit_monitor.alerts import Alert
from dpbitfit_monitor.runs import RunView

# Browsers resolve "." and ".." in a path, and "/" separates its parts.
_ESCAPES = (("~", "~0"), ("/", "~1"))
_DOTS = {".": "~2", "..": "~2~2"}


def to_segment(text: str) -> str:
    """A name as one part of a path."""
    for letter, escape in _ESCAPES:
        text = text.replace(letter, escape)
    return quote(_DOTS.get(text, text), safe="~", errors="replace")


def from_segment(segment: str) -> str:
    """The name in a part of a path that the server has already unquoted."""
    text = segment.replace("~2", ".")
    for letter, escape in reversed(_ESCAPES):
        text = text.replace(escape, letter)
    return text


def account_path(name: AccountName) -> str:
    """The address of an account."""
    return "/".join(("/accounts", *map(to_segment, name)))


def subject_path(alert: Alert) -> str:
    """The address of the account that an alert is about; "" for none."""
    parts = alert.subject.split("/")
    is_account = alert.text.startswith(alert.subject) and len(parts) == len(AccountName._fields)
    return account_path(AccountName(*parts)) if is_account else ""


def run_path(run: str) -> str:
    """The address of a run, by its name in the ledger or its folder's."""
    return f"/runs/{to_segment(run)}"


def run_name(view: RunView) -> str:
    """A run's name in the ledger, else its folder's."""
    return view.run or view.folder
