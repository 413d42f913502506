"""Files for other programs: JSON with everything, CSV with a line for each entry."""

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from starlette.responses import Response

from dpbitfit_monitor import describe
from dpbitfit_monitor.page import formatting
from dpbitfit_monitor.runs import RunView, metric_names
from dpbitfit_monitor.views import AccountView, Overview

ADJACENCY = "add or remove one unit"
# What a spreadsheet takes for the start of a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_ACCOUNT = ("delta", "budget", "left", "run", "rounds_left", "open_rounds", "drift")
_EVENT = ("sequence", "at", "kind", "run", "round", "outcome", "proof", "budget", "reason", "hash")


def json_file(content: Mapping[str, Any], name: str) -> Response:
    """A file of JSON."""
    text = json.dumps(content, indent=2, allow_nan=False)
    return _file(text, "application/json", f"{name}.json")


def csv_file(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], name: str) -> Response:
    """A file of CSV; text that a spreadsheet would run is quoted."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row.get(column)) for column in columns])
    return _file(text.getvalue(), "text/csv", f"{name}.csv")


def accounts_csv(overview: Overview) -> Response:
    """A line for each account; those without figures say why."""
    rows: list[dict[str, Any]] = [_account_row(view) for view in overview.accounts]
    rows += [
        {**account.name._asdict(), "state": account.state, "problem": account.problem}
        for account in overview.unreadable
    ]
    times = ("last_seen", "asked_since", "open_since")
    names = ("accrued", "guaranteed")
    figures = tuple(f"{name}{more}" for name in names for more in ("", "_by", "_basis"))
    columns = ("site", "dataset", "unit", "adjacency", "state", *figures, *_ACCOUNT, *times)
    return csv_file(rows, (*columns, "refusals", "problem"), "budgets")


def events_csv(events: Iterable[formatting.EventLine], name: str) -> Response:
    """A line for each event."""
    rows = [{**vars(event), **dict(event.facts)} for event in events]
    return csv_file(rows, _EVENT, name)


def run_csv(view: RunView) -> Response:
    """A line for each round, a column for each metric: ``metrics.accuracy``."""
    rows = [
        {
            **asdict(line),
            "folder": view.folder,
            "missing": "; ".join(f"{site}: {why}" for site, why in line.missing.items()),
            **{f"metrics.{name}": value for name, value in line.metrics.items()},
        }
        for line in view.rounds
    ]
    metrics = [f"metrics.{name}" for name in metric_names(view.rounds)]
    counts = ("bytes_up", "bytes_down", "replies", "refused", "missing", "seconds")
    place = ("run", "folder", "round", "rounds", "phase")
    columns = (*place, *metrics, "guaranteed", "accrued", *counts)
    return csv_file(rows, columns, f"run-{view.run or view.folder}")


def _account_row(view: AccountView) -> dict[str, Any]:
    bounds: dict[str, float | str] = {}
    for name in ("accrued", "guaranteed"):
        figure = getattr(view, name)
        bound = figure.bound
        bounds |= {name: bound.epsilon, f"{name}_by": f"{bound.accountant} {bound.version}"}
        bounds |= {f"{name}_basis": figure.basis}
    refusals = "; ".join(f"{reason}: {count}" for reason, count in view.refusals.items())
    extra = {"adjacency": ADJACENCY, "refusals": refusals}
    return {**describe.account(view), **bounds, **extra}


def _cell(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return "" if value is None else value


def _file(text: str, kind: str, name: str) -> Response:
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")
    headers = {"Content-Disposition": f'attachment; filename="dpbitfit-{plain}"'}
    return Response(text.encode("utf-8", "replace"), media_type=kind, headers=headers)
