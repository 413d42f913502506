"""``dpbitfit budget``: every account's budget in the terminal."""

import json
import time
from datetime import UTC, datetime
from typing import Annotated, NoReturn

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dpbitfit.errors import BudgetError, LedgerError
from dpbitfit.ledger.cli import terminal
from dpbitfit.ledger.cli.options import AsJson, Url
from dpbitfit.ledger.export import iso_time
from dpbitfit_monitor import describe
from dpbitfit_monitor.alerts import Alert
from dpbitfit_monitor.monitor import Monitor
from dpbitfit_monitor.page.formatting import ago
from dpbitfit_monitor.reader import LedgerViews
from dpbitfit_monitor.views import SPENT, Overview

_STYLES = {"ok": "green", "near": "yellow", "silent": "yellow"}


def budget(
    ledger: Url,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", help="Go on until interrupted; with --json, a line per account and interval."
        ),
    ] = False,
    interval: Annotated[float, typer.Option(min=1, help="Seconds between two updates.")] = 5.0,
    quick: Annotated[
        bool, typer.Option("--quick", help="Do not compute the smallest bounds first.")
    ] = False,
    json_output: AsJson = False,
) -> None:
    """Show each account's budget: what is guaranteed, accrued and left, and what needs attention.

    Guaranteed is a bound; accrued is informative, what was spent of it.

    Exit codes: 0 done; 2 bad input; 3 an account is at 100 % of its budget; 4 the ledger,
    or an account in it, is unreadable or corrupt.
    """
    monitor = Monitor(LedgerViews(ledger))
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
    spent = [account.name for account in view.accounts if account.reached == SPENT]
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
    for account in view.accounts:
        figures = (account.accrued.bound.epsilon, account.approved.epsilon)
        seen = "never" if account.last_seen is None else ago(view.at - account.last_seen)
        table.add_row(
            Group(terminal.plain(str(account.name)), terminal.bar(*figures, account.budget)),
            f"{'' if account.accrued_is_exact else '≤ '}{account.accrued.bound.epsilon:.3f}",
            terminal.short(account.guaranteed.bound),
            f"{account.left:.3f}",
            f"{account.budget:g}\n{account.delta:g}",
            "?" if account.rounds_left is None else str(account.rounds_left),
            Text.assemble((account.state, _STYLES.get(account.state, "red")), f"\n{seen}"),
        )
    for damaged in view.unreadable:
        blank = [""] * (len(table.columns) - 2)
        table.add_row(terminal.plain(str(damaged.name)), *blank, Text(damaged.state, "red"))
    lines = [terminal.plain(f"{each.severity}: {each.text}; {each.advice}") for each in alerts]
    return Group(table, *lines)


def _watch(monitor: Monitor, interval: float) -> NoReturn:
    with Live(auto_refresh=False) as live:
        while True:
            try:
                shown = page(monitor.reader.overview(fresh=True), monitor.alerts())
            except LedgerError as error:
                # Older figures could be wrong by now.
                shown = Group(terminal.plain(f"{datetime.now(UTC):%H:%M:%S} UTC: {error}"))
            live.update(shown, refresh=True)
            time.sleep(interval)


def _print_lines(monitor: Monitor, interval: float) -> NoReturn:
    while True:
        try:
            content = describe.overview(monitor.reader.overview(fresh=True), monitor.alerts())
        except LedgerError as error:
            content = {"at": iso_time(datetime.now(UTC)), "error": str(error)}
        typer.echo(json.dumps(content, allow_nan=False))
        time.sleep(interval)
