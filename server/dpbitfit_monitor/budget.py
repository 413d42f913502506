"""``dpbitfit budget``: every account's budget in the terminal."""

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Annotated, NoReturn

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dpbitfit.errors import BudgetError, LedgerError
from dpbitfit.ledger import terminal
from dpbitfit.ledger.cli import AsJson, Url
from dpbitfit_monitor import describe
from dpbitfit_monitor.alerts import Alert
from dpbitfit_monitor.monitor import Monitor
from dpbitfit_monitor.reader import Reader
from dpbitfit_monitor.views import SPENT, Overview

_STYLES = {"ok": "green", "near": "yellow", "silent": "yellow"}


def budget(
    ledger: Url,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on until interrupted; with --json, a line a look.")
    ] = False,
    interval: Annotated[float, typer.Option(min=1, help="Seconds between two looks.")] = 5.0,
    quick: Annotated[
        bool, typer.Option("--quick", help="Do not compute the smallest bounds first.")
    ] = False,
    json_output: AsJson = False,
) -> None:
    """Show each account's budget: what is guaranteed, accrued and left, and what needs a look.

    Guaranteed is a bound; accrued is informative, what was spent of it.

    Exit codes: 0 done; 2 bad input; 3 an account is at 100 % of its budget; 4 the ledger,
    or an account of it, cannot be read or believed.
    """
    monitor = Monitor(Reader(ledger))
    if watch:
        with monitor.refining():
            (_print_lines if json_output else _watch)(monitor, interval)
    view = monitor.reader.overview()
    if not quick and monitor.reader.bounds.waiting:
        with terminal.errors.status("computing the smallest bounds"):
            while monitor.reader.bounds.refine():
                pass
        view = monitor.reader.overview(fresh=True)
    alerts = monitor.alerts()
    terminal.show(describe.overview(view, alerts), page(view, alerts), json_output)
    if view.unreadable:
        raise LedgerError(f"account {view.unreadable[0].name}: {view.unreadable[0].problem}")
    spent = [one.name for one in view.accounts if one.reached == SPENT]
    if spent:
        raise BudgetError(f"the budget of {spent[0]} is spent, {len(spent)} in all")


def page(view: Overview, alerts: tuple[Alert, ...]) -> Group:
    """Each account with its bar, in 80 columns where there are no more, and the alerts below."""
    caption = f"{view.at:%Y-%m-%d %H:%M:%S} UTC; {terminal.BAR_LEGEND}"
    table = Table(caption=caption, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("account", overflow="fold", min_width=terminal.BAR)
    for title in ("accrued", "guaranteed", "left", "budget\nat delta", "rounds left"):
        table.add_column(title)
    table.add_column("state\nlast seen")
    for one in view.accounts:
        figures = (one.accrued.bound.epsilon, one.approved.epsilon)
        seen = "never" if one.last_seen is None else _ago(view.at - one.last_seen)
        table.add_row(
            Group(terminal.plain(str(one.name)), terminal.bar(*figures, one.budget)),
            f"{'' if one.accrued_is_exact else '≤ '}{one.accrued.bound.epsilon:.3f}",
            terminal.short(one.guaranteed.bound),
            f"{one.left:.3f}",
            f"{one.budget:g}\n{one.delta:g}",
            "?" if one.rounds_left is None else str(one.rounds_left),
            Text.assemble((one.state, _STYLES.get(one.state, "red")), f"\n{seen}"),
        )
    for lost in view.unreadable:
        blank = [""] * (len(table.columns) - 2)
        table.add_row(terminal.plain(str(lost.name)), *blank, Text(lost.state, "red"))
    told = [terminal.plain(f"{one.severity}: {one.text}; {one.advice}") for one in alerts]
    return Group(table, *told)


def _watch(monitor: Monitor, interval: float) -> NoReturn:
    with Live(auto_refresh=False) as live:
        while True:
            try:
                shown = page(monitor.reader.overview(fresh=True), monitor.alerts())
            except LedgerError as error:
                # Old figures are no figures.
                shown = Group(terminal.plain(f"{datetime.now(UTC):%H:%M:%S} UTC: {error}"))
            live.update(shown, refresh=True)
            time.sleep(interval)


def _print_lines(monitor: Monitor, interval: float) -> NoReturn:
    while True:
        try:
            told = describe.overview(monitor.reader.overview(fresh=True), monitor.alerts())
        except LedgerError as error:
            told = {"at": describe.time(datetime.now(UTC)), "error": str(error)}
        typer.echo(json.dumps(told, allow_nan=False))
        time.sleep(interval)


def _ago(since: timedelta) -> str:
    minutes = max(0, int(since.total_seconds() // 60))
    for unit, size in (("d", 1440), ("h", 60)):
        if minutes >= size:
            return f"{minutes // size} {unit} ago"
    return f"{minutes} min ago"
