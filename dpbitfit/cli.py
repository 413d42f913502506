"""The command line. ``dpbitfit simulate`` runs a whole federation on one machine."""

import sys
from contextlib import suppress
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

import click
import typer
from rich.console import Console
from typer.core import TyperGroup

from dpbitfit.accounting import calibration, composition, promise
from dpbitfit.accounting.mechanism import Mechanism
from dpbitfit.errors import BudgetError, DpbitfitError, InputError, LedgerError
from dpbitfit.ledger.cli import app as ledger_app
from dpbitfit.plan_command import command as plan_command
from dpbitfit.predict_command import predict
from dpbitfit.run_command import command as run_command
from dpbitfit.simulate_command import command as simulate_command

_CLICK_COMMANDS = {"plan": plan_command, "run": run_command, "simulate": simulate_command}
COMMANDS = "dpbitfit.commands"  # the group of entry points in which roles offer theirs


class _Commands(TyperGroup):
    """This package's commands, and those of the roles that are installed here.

    A role's is loaded when it is asked for: a Typer application is a group of
    commands, a function is one command. One whose packages are not installed is not listed.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        offered = []
        for name in sorted(entry_points(group=COMMANDS).names):
            with suppress(InputError):
                self._load(name)
                offered.append(name)
        return [*super().list_commands(ctx), *_CLICK_COMMANDS, *offered]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _CLICK_COMMANDS:
            return _CLICK_COMMANDS[cmd_name]
        return super().get_command(ctx, cmd_name) or self._load(cmd_name)

    def _load(self, name: str) -> click.Command | None:
        for point in entry_points(group=COMMANDS, name=name):
            try:
                loaded = point.load()
            except ImportError as error:
                role = "client" if point.module.startswith("dpbitfit_client") else "server"
                raise InputError(
                    f"{name}: cannot be loaded ({error}): pip install 'dpbitfit[{role}]'"
                ) from error
            if not isinstance(loaded, typer.Typer):
                application = typer.Typer(add_completion=False)
                application.command(name)(loaded)
                loaded = application
            command = typer.main.get_command(loaded)
            command.name = name
            return command
        return None


app = typer.Typer(
    cls=_Commands,
    help="Private federated bias fine-tuning: DP-BiTFiT with Flower.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
console = Console(stderr=True)

app.add_typer(ledger_app, name="ledger")

BAD_INPUT, OVER_BUDGET, BAD_LEDGER = 2, 3, 4


@app.callback()
def _root() -> None:
    """Private federated bias fine-tuning: DP-BiTFiT with Flower."""


@app.command()
def corpus(
    path: Annotated[Path, typer.Argument(help="The CSV file to write.")],
    records: Annotated[int, typer.Option(help="How many messages.")] = 4000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same file.")] = 7,
) -> None:
    """Write the generated corpus of bank messages that the demo trains on."""
    from dpbitfit.data.corpus import write_corpus

    write_corpus(path, records=records, seed=seed)


@app.command()
def calibrate(
    target_epsilon: Annotated[float, typer.Option(help="Epsilon that the plan may cost a site.")],
    sampling_rate: Annotated[float, typer.Option(help="Poisson rate of each step.")],
    steps: Annotated[int, typer.Option(help="Noisy steps in all.")],
    delta: Annotated[float, typer.Option()] = 1e-5,
    declared_size: Annotated[
        int, typer.Option(min=0, help="A site's declared size, to be warned of a delta too large.")
    ] = 0,
) -> None:
    """Print the smallest noise multiplier that keeps a plan within its target."""
    sigma = calibration.calibrate(target_epsilon, delta, sampling_rate, steps)
    bound = composition.epsilon({Mechanism(sigma, sampling_rate): steps}, delta)
    typer.echo(
        f"noise multiplier {sigma:.4f}: epsilon {bound.epsilon:.4f} at delta {delta:g} "
        f"({bound.accountant} {bound.version})"
    )
    warning = f"delta {delta:g} promises nothing from {promise.smallest_size(delta):,} units on"
    if declared_size:
        warning = promise.empty_promise(delta, declared_size)
    if warning:
        console.print(f"note: {warning}", markup=False, highlight=False, soft_wrap=True)


app.command()(predict)


def main() -> None:
    """The program's entry: one clear line and a stable exit status on failure."""
    try:
        app()
    except DpbitfitError as error:
        line = " ".join(str(error).split())
        console.print(f"error: {line}", style="red", markup=False, highlight=False, soft_wrap=True)
        codes = {BudgetError: OVER_BUDGET, LedgerError: BAD_LEDGER}
        sys.exit(next((codes[kind] for kind in type(error).mro() if kind in codes), BAD_INPUT))
