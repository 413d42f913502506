"""What the ledger's command line prints: tables for people, JSON for programs."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import typer
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from dpbitfit.accounting.composition import Bound, Counts
from dpbitfit.ledger.budget import Account
from dpbitfit.ledger.events import Event, Tally
from dpbitfit.ledger.status import INFORMATIVE, QUICK, BudgetStatus, RunStatus

errors = Console(stderr=True)
BAR = 16  # characters
BAR_LEGEND = (
    f"accrued is {INFORMATIVE}; █ accrued, ▒ approved, · left of the budget; "
    "≤ a quick figure, too high"
)


def show(told: Any, page: RenderableType, as_json: bool) -> None:
    """Print one of the two."""
    if as_json:
        typer.echo(to_json(told))
    else:
        Console().print(page, highlight=False, markup=False, soft_wrap=isinstance(page, str))


def to_json(told: Any) -> str:
    """Indented, and never a number that JSON does not have."""
    return json.dumps(told, indent=2, allow_nan=False)


def describe_standing(standing: BudgetStatus) -> dict[str, Any]:
    """An account's figures as JSON can hold them."""
    account = standing.account
    return {
        "account": str(account.name),
        "delta": account.delta,
        "budget": account.budget,
        "guaranteed": standing.guaranteed.describe(),
        "accrued": standing.accrued.describe(),
        "promised": standing.promised,
        "left": standing.left,
        **describe_chain(account),
    }


def describe_chain(account: Account) -> dict[str, Any]:
    """Where an account's events stand, as JSON can hold it."""
    return {"events": account.sequence, "chain_head": account.head}


def accounts_table(standings: Sequence[BudgetStatus]) -> Table:
    """A line for each account, with a bar of its budget."""
    table = Table(caption=f"{BAR_LEGEND}: --tight computes the smallest")
    table.add_column("account", overflow="fold")
    for title in ("budget", "guaranteed", "accrued", "left", "delta", ""):
        table.add_column(title, no_wrap=True)
    for one in standings:
        table.add_row(
            plain(str(one.account.name)),
            f"{one.account.budget:g}",
            short(one.guaranteed.bound),
            short(one.accrued.bound),
            f"{one.left:.3f}",
            f"{one.account.delta:g}",
            _bar(one),
        )
    return table


def account_page(
    standing: BudgetStatus, curve: Sequence[Bound], runs: Sequence[RunStatus], last: Sequence[Event]
) -> Group:
    """All about one account."""
    account = standing.account
    head = Table.grid(padding=(0, 2))
    head.add_row("account", plain(str(account.name)))
    head.add_row("budget", f"epsilon {account.budget:g} at delta {account.delta:g}", _bar(standing))
    for title, figure in (("guaranteed", standing.guaranteed), ("accrued", standing.accrued)):
        head.add_row(title, bound_text(figure.bound), figure.basis)
    head.add_row("left", f"{standing.left:.3f}")
    bounds = Table("delta", "guaranteed epsilon", "accountant")
    for bound in curve:
        bounds.add_row(f"{bound.delta:g}", f"{bound.epsilon:.3f}", bound.accountant)
    return Group(head, bounds, _runs_table(runs), _events_table(last))


def verified_text(standings: Sequence[BudgetStatus], tallies: Sequence[Tally]) -> str:
    """What was added up and compared, account by account."""
    lines = [
        f"{plain(str(tally.name))}: {tally.sequence} events in one chain; budget, "
        f"{len({run for run, _ in tally.held})} runs, {len(tally.rounds)} rounds and kept figures "
        f"agree with them; guaranteed {short(one.guaranteed.bound)} of {one.account.budget:g}"
        for one, tally in zip(standings, tallies, strict=True)
    ]
    events = sum(tally.sequence for tally in tallies)
    return "\n".join([*lines, f"{len(lines)} accounts, {events} events: all as they should be"])


def settled_text(told: Sequence[Mapping[str, Any]], rebase: bool) -> str:
    """What an operator's settlement has changed."""
    if not told and rebase:
        return (
            "nothing to settle that this ledger knows of; where the other side reports a "
            "difference, take its statement: ledger settle --rebase --from FILE"
        )
    return "\n".join(line for one in told for line in _settled(one)) or "nothing to settle"


def _settled(one: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"{one['account']}: rounds counted as spent: {one['rounds_committed']}, "
        f"steps given up: {_steps(one['steps_given_up'])}, "
        f"steps taken over: {_steps(one['steps_taken_over'])}"
    )
    for run in one["runs"]:
        whose = f" of coordinator {run['coordinator'][:12]}" if run["coordinator"] else ""
        yield f"  run {plain(run['run'])}{whose}: {_steps(run['steps'])} steps taken over"
    if one["rebased"]:
        yield (
            "  this side now holds the larger count of every run; nothing is spent until the other "
            "side has run ledger settle --rebase as well"
        )


def bound_text(bound: Bound) -> str:
    """A figure with its delta and who says so."""
    return (
        f"epsilon {bound.epsilon:.3f} at delta {bound.delta:g} "
        f"({bound.accountant}, {bound.version})"
    )


def short(bound: Bound) -> str:
    """A figure in a table; one that a smaller will replace is marked."""
    return f"{'≤ ' if bound.accountant == QUICK else ''}{bound.epsilon:.3f}"


def _bar(standing: BudgetStatus) -> Text:
    accrued, approved = standing.accrued.bound.epsilon, standing.approved.epsilon
    return bar(accrued, approved, standing.account.budget)


def _runs_table(runs: Sequence[RunStatus]) -> Table:
    table = Table("run", "plan", "steps allotted", "spent", "left", "rounds left", "approved")
    for run in runs:
        table.add_row(
            plain(run.run),
            plain(run.plan[:12]),
            _counts(run.allotted),
            str(sum(n for _, n in run.spent)),
            str(sum(n for _, n in run.left)),
            "?" if run.rounds_left is None else str(run.rounds_left),
            "after results were seen" if run.adaptive else "beforehand",
        )
    return table


def _events_table(events: Sequence[Event]) -> Table:
    table = Table("event", "kind", "at", "what", "hash")
    for event in events:
        body = json.loads(event.body)
        what = ("run", "round", "outcome", "budget", "reason")
        said = ", ".join(f"{key} {body[key]}" for key in what if key in body)
        table.add_row(
            str(event.sequence),
            event.kind,
            plain(body.get("at", "")),
            plain(said),
            event.hash[:12],
        )
    return table


def bar(accrued: float, approved: float, budget: float) -> Text:
    """Accrued, approved and left, as parts of the budget."""

    def cells(epsilon: float) -> int:
        return min(BAR, round(BAR * epsilon / budget))

    spent = cells(accrued)
    taken = max(spent, cells(approved))
    drawn = Text("█" * spent, style="red" if approved > budget else "green")
    drawn.append("▒" * (taken - spent), style="yellow")
    return drawn.append("·" * (BAR - taken), style="dim")


def plain(text: str) -> Text:
    """Words from elsewhere, which must not steer a terminal."""
    return Text("".join(letter if letter.isprintable() else "?" for letter in str(text)))


def _counts(counts: Counts) -> str:
    return ", ".join(f"{steps} of {mechanism}" for mechanism, steps in counts)


def _steps(counts: Sequence[Mapping[str, Any]]) -> int:
    return sum(one["steps"] for one in counts)
