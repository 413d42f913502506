"""``dpbitfit simulate``: a whole federation on one machine, followed from the terminal.

Its options are those of the run configuration (``settings.OPTIONS``).
"""

import hashlib
import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from dpbitfit import run_options
from dpbitfit.data.partition import count_at_several
from dpbitfit.data.run_data import RunData
from dpbitfit.engine import devices
from dpbitfit.ledger import begin
from dpbitfit.ledger.status import INFORMATIVE
from dpbitfit.run_options import absolute, parameters
from dpbitfit.settings import RunSettings
from dpbitfit.simulate import make_folder
from dpbitfit.simulate import simulate as run_simulation
from dpbitfit.stream import figure, round_line
from dpbitfit.tasks.base import Declaration
from dpbitfit.tasks.registry import resolve

INTERRUPTED = 130  # exit status
# Noise is calibrated here; and simulated sites keep no records for a measurement.
FIXED = {"noise-multiplier": 0.0, "site-metrics": "", "site-evaluations": 0, "site-ledgers": ""}
# What stands for something else than in a configuration.
_HERE = {
    "out": ("out", "Folder for the report and the model."),
    "ledger": (
        "",
        "Folder of the ledgers, in which all runs on the same records add up; "
        "empty: this run counts alone, in OUT/ledger.",
    ),
    "dataset": ("", "The records' name in the ledger; empty: made from file and split."),
}
_REQUIRED = ("data",)

console = Console(stderr=True)


def simulate(as_json: bool, **values: Any) -> None:
    """Fine-tune a model's biases over simulated sites, and report what privacy it cost."""
    config = run_options.config(values) | FIXED
    ledger, out = config["ledger"], Path(config["out"])
    for key in ("data", "test-data", "labels", "model"):
        config[key] = absolute(config[key])
    names_of_sites = _check(config)
    config["sites"] = len(names_of_sites)
    config["dataset"] = config["dataset"] or _name_of_records(config)
    make_folder("out", config["out"])
    folder = make_folder("ledger", ledger or str(out / "ledger"))
    if not (ledger or config["resume"]):
        begin.alone(folder, names_of_sites)
    elif begin.simulation(folder, names_of_sites, lasting=bool(ledger)) and ledger:
        console.print(f"new ledgers in {folder}")
    config["ledger"] = str(begin.coordinators_path(folder))
    config["site-ledgers"] = str(folder / "sites")
    for number in (signal.SIGINT, signal.SIGTERM):  # a background shell ignores the first
        signal.signal(number, signal.default_int_handler)
    try:
        report = _follow(config)
    except KeyboardInterrupt:
        console.print("interrupted; everything that was started has been stopped")
        raise click.exceptions.Exit(INTERRUPTED) from None
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        print_summary(report, out)


command = click.Command(
    "simulate",
    callback=simulate,
    params=[
        *parameters(FIXED, _REQUIRED, _HERE),
        click.Option(["--json", "as_json"], is_flag=True, help="Print the report."),
    ],
    help=simulate.__doc__,
)


def _name_of_records(config: Mapping[str, Any]) -> str:
    """A name that is the same when a site would hold the same records again."""
    path = Path(config["data"])
    split_by = ("sites", "skew", "site-column", "unit-column", "test-data", "test-fraction", "seed")
    seen = hashlib.sha256(json.dumps([config[key] for key in split_by]).encode())
    if path.is_file():
        seen.update(path.read_bytes())
    return f"{path.stem.replace(':', '.')}-{seen.hexdigest()[:8]}"


def _check(config: dict[str, Any]) -> list[str]:
    """Read data and model once, before anything starts; returns the names of the sites."""
    settings = RunSettings.read(config)
    kind = resolve(settings.run.task, {})
    data, columns = RunData.of(settings.run), kind.columns
    sites = data.sites(columns, config["sites"], config["skew"])
    labels = len(data.label_set()) if settings.task.trains_head else 0
    settings.plan("", "", settings.facts(labels, 1))  # whether it can be calibrated
    if config["test-data"]:
        data.test(columns)
    _gpus_per_site(config["device"])
    _check_model(kind, settings, data.label_set())
    if empty := sum(not len(table) for table in sites.values()):
        console.print(f"note: {empty} of {len(sites)} sites have no record and add noise alone")
    if several := count_at_several(list(sites.values())):
        console.print(
            f"note: {several} persons have records at several sites: what each site's figure "
            "bounds adds up for them"
        )
    return list(sites)


def _check_model(kind: type[Declaration], settings: RunSettings, labels: tuple[str, ...]) -> None:
    from dpbitfit.tasks.attach import attach  # torch, which the rest does not need

    run, gradients = settings.run, settings.needs_gradients
    here = run.precision if run.device == "cpu" else "float32"
    exactly: Any = {"precision": here, "private": run.device == "cpu"}  # else of no use here
    attach(kind, run.model, settings.task, labels, needs_gradients=gradients, **exactly)


def _gpus_per_site(device: str) -> int:
    """A GPU of its own for each site that is at work; InputError where there must be one."""
    return 0 if device == "cpu" or devices.choose(device).type == "cpu" else 1


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
        task = progress.add_task("starting", total=1, figures="")

        def on_round(line: dict[str, Any]) -> None:
            figures = round_line(line)
            progress.update(
                task,
                completed=line["round"],
                total=line["rounds"],
                description="training",
                figures=figures,
            )
            if not console.is_terminal:
                console.print(
                    f"round {line['round']}/{line['rounds']}  {figures}",
                    highlight=False,
                    soft_wrap=True,
                )

        gpus = _gpus_per_site(config["device"])
        return run_simulation(config, config["sites"], on_round, gpus_per_site=gpus)


def print_summary(report: dict[str, Any], out: Path) -> None:
    privacy, final = report["privacy"], report["final"]
    headline = final["headline"]
    titles = ("site", "guaranteed", "accrued", "budget", "delta", "rounds", "noise multiplier")
    table = Table(*titles, caption=f"epsilon; guaranteed: an upper bound; accrued: {INFORMATIVE}")
    for site in report["sites"]:
        table.add_row(
            site["name"],
            f"{site['guaranteed']:.3f}",
            f"{site['accrued']:.3f}",
            f"{site['budget']:g}",
            f"{site['delta']:g}",
            str(site["rounds"]),
            ", ".join(f"{mechanism['noise_multiplier']:.3f}" for mechanism in site["mechanisms"]),
        )
    printer = Console()
    printer.print(table)
    for phase in report["phases"]:
        if phase["after"] is not None:
            rounds = phase["last_round"] - phase["first_round"] + 1
            clipping = f"gradients {phase['clipping']}, " if phase["clipping"] else ""
            printer.print(
                f"{phase['kind']}, {rounds} round{'s' * (rounds > 1)}: {headline} "
                f"{figure(phase['before'][headline])} -> {figure(phase['after'][headline])}, "
                f"{clipping}epsilon {phase['epsilon_alone']:.2f} alone"
            )
    printer.print(
        f"{headline} {figure(final['initial'][headline])} -> "
        f"{figure(final['metrics'][headline])}; "
        f"{report['communication']['ratio']:.0f}x fewer bytes than full weights; "
        f"unit {privacy['unit']}, {privacy['adjacency']}, accountant {privacy['accountant']}"
    )
    printer.print(f"model: {out / 'model'}\nreport: {out / 'report.html'}", soft_wrap=True)
