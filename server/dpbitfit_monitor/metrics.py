"""Metrics for Prometheus: one prefix, base units, a bounded set of labels.

``client`` is an account, SITE/DATASET/UNIT, ``site`` the name of a site. While the ledger
cannot be read, only ``dpbitfit_ledger_readable 0``, the certificates and the build are
exported: no older figure is presented as a current one.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from importlib.metadata import version

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.utils import floatToGoString

from dpbitfit.errors import LedgerError
from dpbitfit.ledger.status import INFORMATIVE
from dpbitfit_monitor.activity import ENDS, OTHER
from dpbitfit_monitor.monitor import Monitor
from dpbitfit_monitor.views import AccountView, Overview

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def _used(view: AccountView) -> float | None:
    return view.used_ratio if view.accrued_is_exact else None


def _last_seen(view: AccountView) -> float | None:
    return view.last_seen.timestamp() if view.last_seen else None


# Each account's gauges: name, help and value.
_GAUGES: tuple[tuple[str, str, Callable[[AccountView], float | None]], ...] = (
    ("epsilon_budget", "Epsilon that may be spent.", lambda view: view.budget),
    ("budget_used_ratio", "Accrued over budget; absent while only a quick figure is known.", _used),
    ("rounds_left", "Rounds left of the run requested last.", lambda view: view.rounds_left),
    ("last_seen_timestamp_seconds", "When the site last replied.", _last_seen),
    ("silent", "No reply to a request for too long.", lambda view: view.silent),
    ("drifted", "The site's ledger and this one disagree.", lambda view: bool(view.drift)),
    ("open_rounds", "Rounds reserved, outcome unknown yet.", lambda view: view.open_rounds),
    ("orphaned", "The outcome of a round is unknown for too long.", lambda view: view.orphaned),
    ("readable", "Whether its rows are readable and not corrupt.", lambda _: 1),
)


def exposition(monitor: Monitor) -> bytes:
    """The text of ``/metrics``."""
    return "".join(line for metric in collect(monitor) for line in _lines(metric)).encode()


def collect(monitor: Monitor) -> Iterator[Metric]:
    """Every metric, from one reading of the ledger."""
    try:
        overview = monitor.reader.overview()
    except LedgerError:
        overview = None
    yield _gauge("ledger_readable", "Whether the ledger can be read.", overview is not None)
    if overview is not None:
        yield from _of_accounts(overview)
        yield from _counts(overview)
        yield _bytes(monitor, overview)
        yield _missing(monitor)
    yield from _certificates(monitor)
    yield _gauge("build_info", "The version of dpbitfit.", 1, version=version("dpbitfit"))


def _lines(metric: Metric) -> Iterator[str]:
    """A metric as the library's ``generate_latest`` writes it.

    The library checks every name again for every sample, most of a scrape's time.
    """
    name = f"{metric.name}_total" if metric.type == "counter" else metric.name
    yield f"# HELP {name} {metric.documentation}\n# TYPE {name} {metric.type}\n"
    for sample in metric.samples:
        pairs = ",".join(f'{key}="{_escaped(text)}"' for key, text in sample.labels.items())
        yield f"{name}{{{pairs}}} " if pairs else f"{name} "
        yield f"{_number(sample.value)}\n"


def _number(value: float) -> str:
    text: str = floatToGoString(value)  # type: ignore[no-untyped-call]
    return text


def _escaped(label: str) -> str:
    return label.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _bytes(monitor: Monitor, overview: Overview) -> Metric:
    family = _counter("update_bytes", "Payload bytes of the runs shown.", "client", "direction")
    known = {str(view.name) for view in overview.accounts}
    total: Counter[tuple[str, str]] = Counter()
    for run in monitor.runs():
        for client in run.traffic.keys() & known:
            for direction, size in zip(("down", "up"), run.traffic[client], strict=True):
                total[client, direction] += size
    for labels, size in sorted(total.items()):
        family.add_metric(labels, size)
    return family


def _missing(monitor: Monitor) -> Metric:
    text = "A site that did not take part in the last round of a run that goes on."
    family = _family("site_missing", text, "reason", "run", "site")  # sorted, as they are written
    for run in monitor.runs():
        if run.state == "running" and run.rounds:
            for site, reason in run.rounds[-1].missing.items():
                family.add_metric([reason, run.run or run.folder, site], 1)
    return family


def _certificates(monitor: Monitor) -> Iterator[Metric]:
    text = "When a certificate expires."
    expiry = _family("certificate_expiry_timestamp_seconds", text, "certificate", "subject")
    text = "Whether a certificate can be read from a file that is watched."
    readable = _family("certificate_readable", text, "certificate")
    certificates = monitor.certificates()
    for certificate in certificates:
        labels = [certificate.file, certificate.subject]
        expiry.add_metric(labels, certificate.not_after.timestamp())
    for file in {certificate.file: None for certificate in certificates}:
        readable.add_metric([file], 1)
    for path in monitor.unreadable_certificates():
        readable.add_metric([path.name], 0)
    yield from (expiry, readable)


def _of_accounts(overview: Overview) -> Iterator[Metric]:
    text = f"Accrued, at delta; {INFORMATIVE}."
    accrued = _family("client_epsilon_accrued", text, "client", "delta")
    text = "An upper bound at delta, whatever is done with the account."
    guaranteed = _family("client_epsilon_guaranteed", text, "client", "delta")
    gauges = {name: _family(f"client_{name}", text, "client") for name, text, _ in _GAUGES}
    for view in overview.accounts:
        client, delta = str(view.name), f"{view.delta:g}"
        accrued.add_metric([client, delta], view.accrued.bound.epsilon)
        guaranteed.add_metric([client, delta], view.guaranteed.bound.epsilon)
        for name, _, measure in _GAUGES:
            if (value := measure(view)) is not None:
                gauges[name].add_metric([client], value)
    for account in overview.unreadable:
        gauges["readable"].add_metric([str(account.name)], 0)
    yield from (accrued, guaranteed, *gauges.values())


def _counts(overview: Overview) -> Iterator[Metric]:
    rounds = _counter("rounds", "Rounds of all accounts, by how they ended.", "outcome")
    refusals = _counter("refusals", "Rounds without a usable reply.", "client", "reason")
    total: Counter[str] = Counter()
    for view in overview.accounts:
        total.update(view.ends)
        for reason, count in view.refusals.items():
            refusals.add_metric([str(view.name), reason], count)
    for outcome in (*ENDS, OTHER):
        rounds.add_metric([outcome], total[outcome])
    yield from (rounds, refusals)


def _gauge(name: str, text: str, value: float, **labels: str) -> Metric:
    family = _family(name, text, *labels)
    family.add_metric(list(labels.values()), value)
    return family


def _family(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"dpbitfit_{name}", text, labels=labels)


def _counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"dpbitfit_{name}", text, labels=labels)
