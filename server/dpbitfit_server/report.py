"""What a run cost and what it reached: ``report.json`` and ``report.html``."""

import io
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from dpbitfit.accounting import composition
from dpbitfit.accounting.promise import empty_promise
from dpbitfit.ledger import status
from dpbitfit.phases import DpZeroPhase, Phase, SampledPhase
from dpbitfit.protocol.codec import FLOAT32
from dpbitfit.settings import RunSettings
from dpbitfit_server.strategy import PrivateStrategy

if TYPE_CHECKING:
    from dpbitfit_server.central_evaluation import PublicEvaluation

BYTES_OF_A_VALUE = FLOAT32.bytes_per_value
_TEMPLATES = Path(__file__).parent / "templates"
_BLUE, _GREY, _ORANGE, _GREEN = "#2b6cb0", "#a0aec0", "#c05621", "#2f855a"
_PHASES = (_BLUE, _ORANGE, _GREEN)


def describe_run(
    settings: RunSettings,
    strategy: PrivateStrategy,
    evaluation: "PublicEvaluation",
    final: NDArray[np.float32],
) -> dict[str, Any]:
    """The report as JSON can hold it; bytes are payload bytes, seconds wall time."""
    plan, task, parameters = strategy.plan, evaluation.task, evaluation.parameters
    start, rounds = strategy.history[0], strategy.history[1:]
    sites = [_describe_site(strategy, name) for name in sorted(strategy.registry.sites)]
    spent = map(strategy.registry.rounds_spent, strategy.registry.sites.values())
    site_rounds = max(1, sum(spent))
    replies = max(1, sum(line["replies"] for line in rounds))
    up = sum(line["bytes_up"] for line in rounds) / replies
    down = sum(line["bytes_down"] for line in rounds) / site_rounds
    full = BYTES_OF_A_VALUE * parameters
    return {
        "model": {
            "name": settings.run.model,
            "parameters": parameters,
            "trained_parameters": len(final),
            "not_trained": task.layout.left_out_by_reason,
        },
        "metrics": {name: asdict(metric) for name, metric in task.metrics.items()},
        "privacy": {
            "unit": plan.unit,
            "adjacency": "add or remove one unit",
            "delta": plan.delta,
            "accountant": ", ".join(sorted({site["accountant"] for site in sites})),
            "accrued": status.ACCRUED,
            "noise": ", ".join(sorted({phase.noise.kind for phase in plan.phases})),
            "sampling": ", ".join(sorted({_sampling(phase) for phase in plan.phases})),
            "declared_size": "given"
            if settings.run.declared_size
            else "from the data, to one digit, which itself is not private",
            "not_covered": "public: labels, model, who takes part, timing; test records, which are "
            + ("given" if settings.run.test_data else "held out from the data, not protected"),
        },
        "sites": sites,
        "phases": _describe_phases(strategy),
        "rounds": rounds,
        "communication": {
            "bytes_up_per_site_round": up,
            "bytes_down_per_site_round": down,
            "all_values_bytes": BYTES_OF_A_VALUE * len(final),
            "full_weights_bytes": full,
            "ratio": full / up if up else 0.0,
        },
        "final": {
            "headline": task.headline,
            "initial": start["metrics"],
            "metrics": strategy.history[-1]["metrics"],
            "weights_moved": float(np.linalg.norm(final.astype(np.float64) - task.pretrained)),
            "stopped": strategy.stopped,
        },
        "plan": json.loads(plan.encode()),
    }


def write_report(folder: Path, report: dict[str, Any]) -> None:
    """Write ``report.html``, then ``report.json``, whose presence means "done"."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("report.html.j2").render(
        report=report,
        metrics={name: _plot(partial(_metric, name), report) for name in report["metrics"]},
        epsilon=_plot(_epsilon, report),
        traffic=_plot(_traffic, report),
    )
    (folder / "report.html").write_text(page, encoding="utf-8")
    draft = folder / "report.json.new"
    draft.write_text(json.dumps(report, indent=2), encoding="utf-8")
    os.replace(draft, folder / "report.json")


def _sampling(phase: Phase) -> str:
    return "Poisson sampling" if isinstance(phase, SampledPhase) else "all units (rate 1)"


def read_report(folder: Path) -> dict[str, Any] | None:
    """The report of a run that has ended; None where there is none."""
    try:
        report: dict[str, Any] = json.loads((folder / "report.json").read_bytes())
    except FileNotFoundError:
        return None
    return report


def _describe_site(strategy: PrivateStrategy, name: str) -> dict[str, Any]:
    site, plan = strategy.registry.sites[name], strategy.plan
    standing = strategy.registry.standing(site)
    bound, accrued = standing.guaranteed.bound, standing.accrued.bound
    return {
        "name": name,
        "guaranteed": bound.epsilon,
        "accountant": f"{bound.accountant} ({bound.version})",
        "basis": standing.guaranteed.basis,
        "accrued": accrued.epsilon,
        "accrued_by": f"{accrued.accountant} ({accrued.version})",
        "plan_epsilon": strategy.cost.epsilon,
        "delta": plan.delta,
        "budget": standing.account.budget,
        "rounds": site.rounds,
        "steps": strategy.registry.steps(site),
        "mechanisms": status.describe_counts(plan.counts),
        "declared_size": site.declared_size,
        "warning": empty_promise(plan.delta, site.declared_size),
        "refused": site.refused,
    }


def _describe_phases(strategy: PrivateStrategy) -> list[dict[str, Any]]:
    """What each phase cost alone, and the metrics before and after it; None where it was not."""
    described, first = [], 1
    for phase in strategy.plan.phases:
        last = first + phase.rounds - 1
        before = [line for line in strategy.history if line["round"] < first]
        during = [line for line in strategy.history if first <= line["round"] <= last]
        described.append(
            {
                "kind": phase.kind,
                "trains": phase.trains,
                "clipping": phase.clipping.words if isinstance(phase, SampledPhase) else None,
                "directions": phase.estimator.directions
                if isinstance(phase, DpZeroPhase)
                else None,
                "first_round": first,
                "last_round": last,
                "epsilon_alone": composition.epsilon(
                    dict(phase.counts), strategy.plan.delta
                ).epsilon,
                "before": before[-1]["metrics"] if during else None,
                "after": during[-1]["metrics"] if during else None,
            }
        )
        first = last + 1
    return described


def _plot(draw: Callable[[Axes, dict[str, Any]], None], report: dict[str, Any]) -> Markup:
    """One drawing as inline SVG, in the page's own font."""
    settings = {
        **{"svg.fonttype": "none", "font.family": "sans-serif", "svg.hashsalt": "dpbitfit"},
        "text.parse_math": False,  # a site may have a "$" in its name
    }
    with rc_context(settings):
        figure = Figure(figsize=(5.2, 3.2), layout="constrained")
        axes = figure.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes, report)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return Markup(text.getvalue()[text.getvalue().index("<svg") :])


def _metric(name: str, axes: Axes, report: dict[str, Any]) -> None:
    rounds = [0, *(line["round"] for line in report["rounds"])]
    values = [report["final"]["initial"][name]]
    values += [line["metrics"][name] for line in report["rounds"]]
    values = [np.nan if value is None else value for value in values]
    unit = report["metrics"][name]["unit"]
    axes.axhline(values[0], color=_GREY, linestyle="--", linewidth=1, label="before training")
    for phase, color in zip(report["phases"], cycle(_PHASES), strict=False):
        if phase["after"] is None:
            break
        # From where the phase before it ended.
        part = slice(phase["first_round"] - 1, phase["last_round"] + 1)
        axes.plot(
            rounds[part], values[part], color=color, marker="o", markersize=4, label=phase["kind"]
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="round", ylabel=f"{name} ({unit})" if unit else name)
    axes.legend(frameon=False)


def _epsilon(axes: Axes, report: dict[str, Any]) -> None:
    sites = report["sites"]
    names = [site["name"] for site in sites]
    axes.barh(names, [site["budget"] for site in sites], color=_GREY, alpha=0.4, label="budget")
    for key, label, height in (
        ("guaranteed", "guaranteed", 0.5),
        ("accrued", f"accrued ({status.INFORMATIVE})", 0.25),
    ):
        values = [site[key] for site in sites]
        color = _BLUE if key == "guaranteed" else _ORANGE
        axes.barh(names, values, color=color, height=height, label=label)
    axes.invert_yaxis()
    axes.set(xlabel=f"epsilon at delta {report['privacy']['delta']:g}")
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)


def _traffic(axes: Axes, report: dict[str, Any]) -> None:
    traffic = report["communication"]
    kinds = ("sent", "received", "all that trains", "full weights")
    values = [
        traffic["bytes_up_per_site_round"],
        traffic["bytes_down_per_site_round"],
        traffic["all_values_bytes"],
        traffic["full_weights_bytes"],
    ]
    bars = axes.barh(kinds, [value / 1e3 for value in values], color=[_BLUE, _BLUE, _GREY, _ORANGE])
    axes.bar_label(bars, labels=[f"{value / 1e3:,.0f} kB" for value in values], padding=3)
    axes.set_xscale("log")
    axes.set_xlim(right=30 * values[-1] / 1e3)
    axes.invert_yaxis()
    axes.set(xlabel="kB for each site and round (log scale)")
