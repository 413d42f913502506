"""Views as JSON: for ``--json``, the page's exports and the webhook."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from dpbitfit.accounting.composition import Bound
from dpbitfit.ledger import status
from dpbitfit.ledger.export import iso_time
from dpbitfit_monitor.alerts import Alert
from dpbitfit_monitor.runs import RunView
from dpbitfit_monitor.views import (
    AccountDetail,
    AccountView,
    Overview,
    UnreadableAccount,
)

_TIMES = ("last_seen", "asked_since", "open_since")
_PLAIN = (
    *("sequence", "head", "delta", "budget", "left", "run", "rounds_left"),
    *("ends", "refusals", "open_rounds", "silent", "orphaned", "drift"),
    *("used_ratio", "approved_ratio", "guaranteed_ratio"),
)


def overview(view: Overview, alerts: Iterable[Alert] = ()) -> dict[str, Any]:
    """Every account and alert."""
    return {
        "at": iso_time(view.at),
        "ledger": view.ledger,
        "accounts": [account(each) for each in view.accounts],
        "unreadable": [unreadable(each) for each in view.unreadable],
        "alerts": [alert(each) for each in alerts],
    }


def account(view: AccountView) -> dict[str, Any]:
    """One account."""
    return {
        "account": str(view.name),
        **view.name._asdict(),
        "state": view.state,
        "guaranteed": view.guaranteed.describe(),
        "accrued": view.accrued.describe(),
        "accrued_is_exact": view.accrued_is_exact,
        **{name: getattr(view, name) for name in _PLAIN},
        **{name: iso_time(getattr(view, name)) for name in _TIMES},
        "sentence": view.sentence,
    }


def unreadable(view: UnreadableAccount) -> dict[str, Any]:
    """An account without figures."""
    return {"account": str(view.name), "state": view.state, "problem": view.problem}


def detail(view: AccountDetail) -> dict[str, Any]:
    """One account in full, without its events."""
    return {
        **account(view.view),
        "series": [
            {"rounds": each.rounds, "at": iso_time(each.at), "accrued": _accrued(each.bound)}
            for each in view.series
        ],
        "curve": status.describe_bounds(view.curve),
        "runs": [status.describe_run(run) for run in view.runs],
        "decisions": [vars(each) for each in view.decisions],
        "witnesses": [vars(each) for each in view.witnesses],
        "reserved": [{**vars(each), "since": iso_time(each.since)} for each in view.open_rounds],
    }


def _accrued(bound: Bound) -> dict[str, Any]:
    return status.EpsilonBound(bound, status.ACCRUED).describe()


def alert(view: Alert) -> dict[str, Any]:
    """One alert."""
    return {**vars(view), "since": iso_time(view.since)}


def run(view: RunView) -> dict[str, Any]:
    """One run and its rounds."""
    return {**asdict(view), "changed": iso_time(view.changed)}
