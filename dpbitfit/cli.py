"""The command line. ``dpbitfit simulate`` runs a whole federation on one machine."""

import hashlib
import json
import shutil
import signal
import sys
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

import click
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from typer.core import TyperGroup

from dpbitfit.accounting import calibration, composition
from dpbitfit.data.partition import hold_out, natural_sites, split
from dpbitfit.data.tables import read_examples, read_labels
from dpbitfit.errors import BudgetError, DpbitfitError, LedgerError
from dpbitfit.ledger import begin
from dpbitfit.ledger.cli import app as ledger_app
from dpbitfit.ledger.status import INFORMATIVE
from dpbitfit.simulate import simulate as run_simulation

COMMANDS = "dpbitfit.commands"  # the group of entry points in which roles offer theirs


class _Commands(TyperGroup):
    """This module's commands, and those of the roles that are installed here.

    A role's is loaded when it is asked for: a Typer application is a group of
    commands, a function is one command. One whose packages are not installed is not there.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        offered = [name for name in entry_points(group=COMMANDS).names if self._load(name)]
        return [*super().list_commands(ctx), *sorted(offered)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, cmd_name) or self._load(cmd_name)

    def _load(self, name: str) -> click.Command | None:
        for point in entry_points(group=COMMANDS, name=name):
            try:
                found = point.load()
            except ImportError:
                return None
            if not isinstance(found, typer.Typer):
                application = typer.Typer(add_completion=False)
                application.command(name)(found)
                found = application
            command = typer.main.get_command(found)
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
INTERRUPTED = 130


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
) -> None:
    """Print the smallest noise multiplier that keeps a plan within its target."""
    sigma = calibration.calibrate(target_epsilon, delta, sampling_rate, steps)
    bound = composition.epsilon({composition.Mechanism(sigma, sampling_rate): steps}, delta)
    typer.echo(
        f"noise multiplier {sigma:.4f}: epsilon {bound.epsilon:.4f} at delta {delta:g} "
        f"({bound.accountant} {bound.version})"
    )


@app.command()
def simulate(
    data: Annotated[str, typer.Option(help="CSV, JSONL or Parquet file, or module:function.")],
    labels: Annotated[
        str, typer.Option(help="The public label set: a,b,c or a .json or .txt file.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the report and the model.")] = Path("out"),
    text_column: Annotated[str, typer.Option(help="Column of the text.")] = "text",
    label_column: Annotated[str, typer.Option(help="Column of the label.")] = "label",
    unit_column: Annotated[
        str, typer.Option(help="Column that names the person: the unit of privacy.")
    ] = "",
    site_column: Annotated[str, typer.Option(help="Column that names the site.")] = "",
    sites: Annotated[int, typer.Option(help="Sites, where no column names them.")] = 4,
    skew: Annotated[
        float, typer.Option(help="Label skew between sites: Dirichlet with alpha 1/skew; 0: none.")
    ] = 0.0,
    test_data: Annotated[str, typer.Option(help="Public test file.")] = "",
    test_fraction: Annotated[
        float, typer.Option(help="Without a test file: the part held out and treated as public.")
    ] = 0.2,
    declared_size: Annotated[
        int, typer.Option(help="Public size of every site; 0: made from the data, to one digit.")
    ] = 0,
    model: Annotated[str, typer.Option(help="Folder, hub id, or minilm.")] = "minilm",
    head: Annotated[str, typer.Option(help="labels (fixed) or trained.")] = "labels",
    logit_scale: Annotated[float, typer.Option(help="Multiplies cosine similarity.")] = 20.0,
    max_length: Annotated[int, typer.Option(help="Tokens kept of each text.")] = 128,
    target_epsilon: Annotated[float, typer.Option(help="Budget of every site.")] = 8.0,
    delta: Annotated[float, typer.Option(help="Delta of every site.")] = 1e-5,
    ledger: Annotated[
        str,
        typer.Option(
            help="Folder of the ledgers, in which all runs on the same records add up; "
            "empty: this run counts alone, in OUT/ledger."
        ),
    ] = "",
    budget: Annotated[
        float, typer.Option(help="Epsilon of an account that is new; 0: the target.")
    ] = 0.0,
    dataset: Annotated[
        str, typer.Option(help="The records' name in the ledger; empty: made from file and split.")
    ] = "",
    sampling_rate: Annotated[float, typer.Option(help="Poisson rate of a unit at a step.")] = 0.2,
    rounds: Annotated[int, typer.Option(help="Federated rounds.")] = 12,
    steps_per_round: Annotated[int, typer.Option(help="Noisy steps of a site in a round.")] = 5,
    optimizer: Annotated[str, typer.Option(help="At the site: adam or sgd.")] = "adam",
    learning_rate: Annotated[
        float, typer.Option(help="At the site, at first; falls to 0 over the rounds.")
    ] = 2e-2,
    clipping: Annotated[str, typer.Option(help="flat or automatic.")] = "flat",
    clipping_norm: Annotated[float, typer.Option(help="L2 bound of a unit's gradient.")] = 8.0,
    noise: Annotated[
        str, typer.Option(help="discrete-gaussian; fast-insecure for experiments only.")
    ] = "discrete-gaussian",
    server_strategy: Annotated[str, typer.Option(help="fedavg, fedadam or fedmedian.")] = "fedavg",
    server_learning_rate: Annotated[float, typer.Option(help="For fedadam.")] = 1.0,
    min_replies: Annotated[int, typer.Option(help="Replies that make a round count.")] = 1,
    round_timeout: Annotated[float, typer.Option(help="Seconds to wait for a round.")] = 3600.0,
    seed: Annotated[int, typer.Option(help="Of the partition only; never of the noise.")] = 0,
    resume: Annotated[bool, typer.Option(help="Go on from the checkpoint in --out.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print the report.")] = False,
) -> None:
    """Fine-tune a model's biases over simulated sites, and report what privacy it cost."""
    names = dict(locals())
    del names["json_output"]
    config: dict[str, Any] = {
        key.replace("_", "-"): str(value) if isinstance(value, Path) else value
        for key, value in names.items()
    }
    for key in ("data", "test-data", "labels", "model"):
        config[key] = _absolute(config[key])
    # It is calibrated here; and simulated sites keep no records for a measurement.
    config |= {"noise-multiplier": 0.0, "site-metrics": "", "site-evaluations": 0}
    names_of_sites = _check(config)
    config["sites"] = len(names_of_sites)
    config["dataset"] = dataset or _name_of_records(config)
    folder = (Path(ledger) if ledger else out / "ledger").resolve()
    if not (ledger or resume):
        shutil.rmtree(folder, ignore_errors=True)  # those of an earlier run, which counted alone
    if begin.simulation(folder, names_of_sites) and ledger:
        console.print(f"new ledgers in {folder}")
    config["ledger"] = str(begin.coordinators_path(folder))
    config["site-ledgers"] = str(folder / "sites")
    for number in (signal.SIGINT, signal.SIGTERM):  # a background shell ignores the first
        signal.signal(number, signal.default_int_handler)
    try:
        report = _follow(config)
    except KeyboardInterrupt:
        console.print("interrupted; everything that was started has been stopped")
        raise typer.Exit(INTERRUPTED) from None
    if json_output:
        typer.echo(json.dumps(report, indent=2))
    else:
        _print_summary(report, out)


def _absolute(value: str) -> str:
    """A path of the caller's, made good for processes that start elsewhere."""
    return str(Path(value).resolve()) if value and Path(value).exists() else value


def _name_of_records(config: Mapping[str, Any]) -> str:
    """A name that is the same when a site would hold the same records again."""
    path = Path(config["data"])
    split_by = ("sites", "skew", "site-column", "unit-column", "test-data", "test-fraction", "seed")
    seen = hashlib.sha256(json.dumps([config[key] for key in split_by]).encode())
    if path.is_file():
        seen.update(path.read_bytes())
    return f"{path.stem.replace(':', '.')}-{seen.hexdigest()[:8]}"


def _check(config: dict[str, Any]) -> list[str]:
    """Read the data once, before anything starts; returns the names of the sites."""
    labels = read_labels(config["labels"])
    columns = {
        "text_column": config["text-column"],
        "label_column": config["label-column"],
        "unit_column": config["unit-column"] or None,
    }
    examples = read_examples(
        config["data"], labels=labels, site_column=config["site-column"] or None, **columns
    )
    if config["test-data"]:
        read_examples(config["test-data"], labels=labels, **columns)
    else:
        examples, _ = hold_out(examples, config["test-fraction"], config["seed"])
    if config["site-column"]:
        sites = list(natural_sites(examples))
    else:
        parts = split(examples, config["sites"], config["skew"], config["seed"])
        sites = [f"site-{number}" for number in range(1, len(parts) + 1)]
        if empty := sum(not len(part) for part in parts):
            console.print(f"note: {empty} of {len(sites)} sites have no record and add noise alone")
    steps = config["rounds"] * config["steps-per-round"]
    calibration.calibrate(config["target-epsilon"], config["delta"], config["sampling-rate"], steps)
    return sites


def _follow(config: dict[str, Any]) -> dict[str, Any]:
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} rounds"),
        TextColumn("{task.fields[figures]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("starting", total=config["rounds"], figures="")

        def on_round(line: dict[str, Any]) -> None:
            figures = (
                f"accuracy {line['accuracy']:.3f}  epsilon {line['guaranteed']:.2f}, "
                f"accrued {line['accrued']:.2f}  "
                f"up {line['bytes_up'] / 1e3:.0f} kB  down {line['bytes_down'] / 1e3:.0f} kB"
            )
            progress.update(
                task,
                completed=line["round"],
                total=line["rounds"],
                description="training",
                figures=figures,
            )
            if not console.is_terminal:
                console.print(f"round {line['round']}/{line['rounds']}  {figures}", highlight=False)

        return run_simulation(config, config["sites"], on_round)


def _print_summary(report: dict[str, Any], out: Path) -> None:
    privacy, final = report["privacy"], report["final"]
    titles = ("site", "epsilon", "accrued", "budget", "delta", "rounds", "noise multiplier")
    table = Table(*titles, caption=f"epsilon: an upper bound; accrued: {INFORMATIVE}")
    for site in report["sites"]:
        table.add_row(
            site["name"],
            f"{site['epsilon']:.3f}",
            f"{site['accrued']:.3f}",
            f"{site['budget']:g}",
            f"{site['delta']:g}",
            str(site["rounds"]),
            f"{site['noise_multiplier']:.3f}",
        )
    printer = Console()
    printer.print(table)
    printer.print(
        f"accuracy {final['initial_accuracy']:.3f} -> {final['accuracy']:.3f}; "
        f"{report['communication']['ratio']:.0f}x fewer bytes than full weights; "
        f"unit {privacy['unit']}, {privacy['adjacency']}, accountant {privacy['accountant']}"
    )
    printer.print(f"report: {out / 'report.html'}")


def main() -> None:
    """The program's entry: one clear line and a stable exit status on failure."""
    try:
        app()
    except DpbitfitError as error:
        said = " ".join(str(error).split())
        console.print(f"error: {said}", style="red", markup=False, highlight=False, soft_wrap=True)
        codes = {BudgetError: OVER_BUDGET, LedgerError: BAD_LEDGER}
        sys.exit(next((codes[kind] for kind in type(error).mro() if kind in codes), BAD_INPUT))
