"""What Prometheus scrapes: the agreed names, true values, nothing after the ledger has gone."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from dpbitfit_monitor.metrics import collect, exposition
from dpbitfit_monitor.monitor import Monitor
from dpbitfit_monitor.reader import LedgerViews
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from dpbitfit.accounting import composition
from dpbitfit.ledger import Account, Ledger, schema
from tests.conftest import ROOT
from tests.support.ledgers import DELTA, NAME, OTHER, STEP

from ..support.certificates import Authority
from .test_runs import LINE, folder

# The names and labels that others rely on.
AGREED = {
    "dpbitfit_client_epsilon_accrued": {"client", "delta"},
    "dpbitfit_client_epsilon_guaranteed": {"client", "delta"},
    "dpbitfit_client_epsilon_budget": {"client"},
    "dpbitfit_client_budget_used_ratio": {"client"},
    "dpbitfit_rounds_total": {"outcome"},
    "dpbitfit_update_bytes_total": {"client", "direction"},
    "dpbitfit_refusals_total": {"client", "reason"},
    "dpbitfit_client_last_seen_timestamp_seconds": {"client"},
    "dpbitfit_certificate_expiry_timestamp_seconds": {"certificate", "subject"},
    "dpbitfit_build_info": {"version"},
    "dpbitfit_ledger_readable": set(),
    "dpbitfit_site_missing": {"site", "run", "reason"},
}

Samples = dict[str, dict[tuple[str, ...], float]]


def samples(monitor: Monitor) -> Samples:
    values: Samples = {}
    for family in text_string_to_metric_families(exposition(monitor).decode()):
        for sample in family.samples:
            values.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return values


def labels(monitor: Monitor) -> dict[str, set[str]]:
    families = text_string_to_metric_families(exposition(monitor).decode())
    return {sample.name: set(sample.labels) for family in families for sample in family.samples}


@pytest.fixture
def monitor(
    reader: LedgerViews, refined: Callable[[LedgerViews], LedgerViews], tmp_path: Path
) -> Monitor:
    line = {**LINE, "missing": {"hospital-2": "offline"}}
    out = folder(tmp_path / "out", line, traffic={str(NAME): [100, 7], "of/no/account": [1, 1]})
    certificate, _ = Authority(tmp_path, "authority").issue("server")
    return Monitor(refined(reader), [out], [certificate])


def test_values_are_those_of_the_views(
    north: Account, south: Account, monitor: Monitor, refined: Callable[[LedgerViews], LedgerViews]
) -> None:
    refined(monitor.reader)
    values, name = samples(monitor), str(NAME)
    spent = composition.epsilon({STEP: 40}, DELTA).epsilon
    assert values["dpbitfit_client_epsilon_accrued"][name, "1e-05"] == spent
    assert values["dpbitfit_client_epsilon_budget"] == {(name,): 8, (str(OTHER),): 2}
    assert values["dpbitfit_client_budget_used_ratio"][name,] == spent / 8
    assert values["dpbitfit_client_rounds_left"] == {(name,): 6}
    assert values["dpbitfit_rounds_total"]["reply",] == 2
    assert sum(values["dpbitfit_rounds_total"].values()) == 3
    assert values["dpbitfit_refusals_total"] == {(name, "refused"): 1}
    assert values["dpbitfit_update_bytes_total"] == {(name, "down"): 100, (name, "up"): 7}
    assert values["dpbitfit_client_open_rounds"] == {(name,): 1, (str(OTHER),): 0}
    assert values["dpbitfit_client_readable"] == {(name,): 1, (str(OTHER),): 1}
    (seen,) = values["dpbitfit_client_last_seen_timestamp_seconds"].values()
    assert seen == monitor.reader.overview().accounts[0].last_seen.timestamp()  # type: ignore[union-attr]
    (ends,) = values["dpbitfit_certificate_expiry_timestamp_seconds"].values()
    assert ends == monitor.certificates()[0].not_after.timestamp()
    assert values["dpbitfit_certificate_readable"] == {("server.crt",): 1}


def test_a_watched_certificate_that_cannot_be_read_is_a_sample(
    reader: LedgerViews, tmp_path: Path
) -> None:
    """Its expiry is none any more, and so would its alert be."""
    certificate, _ = Authority(tmp_path, "authority").issue("server")
    monitor = Monitor(reader, certificates=[certificate, tmp_path / "absent.crt"])
    values = samples(monitor)["dpbitfit_certificate_readable"]
    assert values == {("server.crt",): 1, ("absent.crt",): 0}


def test_names_and_labels_are_those_agreed_upon(
    north: Account, monitor: Monitor, refined: Callable[[LedgerViews], LedgerViews]
) -> None:
    refined(monitor.reader)
    result = labels(monitor)
    assert {name: result[name] for name in AGREED} == AGREED
    assert all(name.startswith("dpbitfit_") for name in result)


def test_a_site_that_is_missing_is_named_while_its_run_goes_on(
    north: Account, reader: LedgerViews, tmp_path: Path
) -> None:
    missing = {"hospital-2": "offline", "hospital-3": "left out"}
    first, last = {**LINE, "missing": missing}, {**LINE, "round": 1, "missing": {"x": "offline"}}
    out = folder(tmp_path / "out", last, first)
    name = "dpbitfit_site_missing"
    assert samples(Monitor(reader, [out]))[name] == {("offline", "r1", "x"): 1}
    out = folder(tmp_path / "out", first)
    assert samples(Monitor(reader, [out]))[name] == {
        (why, "r1", s): 1 for s, why in missing.items()
    }
    folder(tmp_path / "out", first, report={"final": {"stopped": ""}})
    assert name not in samples(Monitor(reader, [out]))


def test_a_loose_bound_gives_no_ratio(north: Account, reader: LedgerViews) -> None:
    values = samples(Monitor(reader))
    assert "dpbitfit_client_epsilon_accrued" in values
    assert "dpbitfit_client_budget_used_ratio" not in values


def test_a_name_cannot_break_out_of_its_label(
    north: Account, reader: LedgerViews, ledger: Ledger
) -> None:
    hostile = 'a"} 1\ndpbitfit_ledger_readable 0\\'
    with ledger.database.write() as connection:
        connection.execute(sa.update(schema.account).values(site=hostile))
    values = samples(Monitor(reader))
    assert values["dpbitfit_ledger_readable"] == {(): 1}
    assert {client for client, *_ in values["dpbitfit_client_epsilon_accrued"]} == {
        f"{hostile}/letters/person"
    }


class Collected(Collector):
    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    def collect(self) -> Iterator[Metric]:
        return collect(self._monitor)


@pytest.mark.parametrize("site", ["north", 'a"} 1\n\\n', "\\", "søen", "{le}"])
def test_the_text_is_what_the_library_writes(
    site: str, north: Account, monitor: Monitor, ledger: Ledger
) -> None:
    with ledger.database.write() as connection:
        of = schema.account.c.id == north.id
        connection.execute(sa.update(schema.account).where(of).values(site=site))
    registry = CollectorRegistry()
    registry.register(Collected(monitor))
    monitor.reader.overview(fresh=True)
    assert (f"{site}/letters/person",) in samples(monitor)["dpbitfit_client_readable"]
    assert exposition(monitor) == generate_latest(registry)


def test_no_figure_is_exported_of_accounts_that_cannot_be_read(
    north: Account, south: Account, reader: LedgerViews, ledger: Ledger, tmp_path: Path
) -> None:
    with ledger.database.write() as connection:
        of = schema.account.c.id == north.id
        connection.execute(sa.update(schema.account).where(of).values(budget="many"))
    values = samples(Monitor(reader))
    assert values["dpbitfit_client_readable"] == {(str(NAME),): 0, (str(OTHER),): 1}
    assert (str(NAME),) not in values["dpbitfit_client_epsilon_budget"]
    away = samples(Monitor(LedgerViews(str(tmp_path / "absent"))))
    assert away["dpbitfit_ledger_readable"] == {(): 0}
    assert set(away) == {"dpbitfit_ledger_readable", "dpbitfit_build_info"}


def _named(text: str) -> set[str]:
    return set(re.findall(r"dpbitfit_\w+", text))


def _expressions(panel: Any) -> list[str]:
    return [target["expr"] for target in panel["targets"]]


def test_the_dashboard_and_the_rules_name_only_what_is_there(
    north: Account, monitor: Monitor, refined: Callable[[LedgerViews], LedgerViews]
) -> None:
    refined(monitor.reader)
    there = set(samples(monitor))
    dashboard = json.loads((ROOT / "deploy/grafana/dashboards/dpbitfit.json").read_text())
    for panel in dashboard["panels"]:
        for expression in _expressions(panel):
            assert _named(expression)
            assert _named(expression) <= there, panel["title"]
    for variable in dashboard["templating"]["list"]:
        assert _named(variable["query"]["query"]) <= there
    rules = (ROOT / "deploy/prometheus/dpbitfit.rules.yml").read_text()
    expressions = re.findall(r"expr: (.*)", rules)
    assert len(expressions) == rules.count("- alert:")
    for expression in expressions:
        assert _named(expression)
        assert _named(expression) <= there, expression
    shown = _named(" ".join(e for panel in dashboard["panels"] for e in _expressions(panel)))
    assert set(AGREED) <= shown
