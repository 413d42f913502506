"""An account whose later plans were chosen after results, on every surface of the monitor.

What a tight composition says of its spent steps bounds nothing: it is shown nowhere.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from dpbitfit_monitor.client import MonitorClient
from dpbitfit_monitor.metrics import exposition
from dpbitfit_monitor.monitor import Monitor
from dpbitfit_monitor.page import urls
from dpbitfit_monitor.reader import LedgerViews
from dpbitfit_monitor.views import NEAR, State
from google.protobuf.json_format import MessageToDict
from starlette.testclient import TestClient

from dpbitfit.cli import main
from dpbitfit.ledger import Account, Ledger, budget, status
from tests.support.ledgers import ADAPTIVE_BUDGET, NAME, NOISY, adaptive, no_bound, numbers, steps

from ..support.monitor_pages import Words, monitor, out, page, stranger, token, token_file, url
from ..support.monitors import served

__all__ = ["monitor", "out", "page", "stranger", "token", "token_file", "url"]

Refined = Callable[[LedgerViews], LedgerViews]
NORTH = urls.account_path(NAME)


@pytest.fixture
def account(ledger: Ledger) -> Account:
    return adaptive(ledger)


@pytest.fixture
def accrued(account: Account) -> float:
    """The filter's figure of what was spent, informative."""
    return budget.filtered(steps(100, NOISY), account.delta, account.filter_order).epsilon


def test_its_alert_comes_when_the_filter_says_so(
    account: Account, accrued: float, reader: LedgerViews
) -> None:
    (view,) = reader.overview().accounts
    assert view.guaranteed.bound.epsilon == ADAPTIVE_BUDGET
    assert view.accrued.bound.epsilon == accrued
    assert view.accrued_is_exact  # at once: no accountant has to be waited for
    assert not reader.bounds.waiting
    assert no_bound() / ADAPTIVE_BUDGET < NEAR <= accrued / ADAPTIVE_BUDGET
    assert (view.reached, view.state) == (NEAR, State.NEAR)
    (alert,) = Monitor(reader).alerts()
    assert "80 % of its budget" in alert.text


@pytest.mark.parametrize("path", ["/", NORTH, f"{NORTH}/report"])
def test_its_page(path: str, account: Account, accrued: float, page: TestClient) -> None:
    text = " ".join(Words(page.get(path).text).text.split())
    assert f"{accrued:.3f}" in text
    assert f"{ADAPTIVE_BUDGET:.3f}" in text
    assert f"{no_bound():.3f}" not in page.get(path).text
    assert status.INFORMATIVE in text
    assert "Every epsilon is an upper bound" not in text


@pytest.mark.parametrize("path", ["/export", f"{NORTH}/export"])
def test_its_files(path: str, account: Account, accrued: float, page: TestClient) -> None:
    output = page.get(f"{path}.json").json()
    assert {accrued, ADAPTIVE_BUDGET} <= set(numbers(output))
    assert no_bound() not in numbers(output)
    assert status.ACCRUED in page.get(f"{path}.json").text
    assert str(no_bound()) not in page.get(f"{path}.csv").text


def test_its_metrics(account: Account, accrued: float, reader: LedgerViews) -> None:
    output = exposition(Monitor(reader)).decode()
    labels = f'{{client="{NAME}",delta="1e-05"}}'
    assert f"dpbitfit_client_epsilon_accrued{labels} {accrued}\n" in output
    assert f"dpbitfit_client_epsilon_guaranteed{labels} {ADAPTIVE_BUDGET}\n" in output
    assert str(no_bound()) not in output
    helped = {line.split()[2]: line for line in output.splitlines() if line.startswith("# HELP")}
    assert status.INFORMATIVE in helped["dpbitfit_client_epsilon_accrued"]
    called = [name for name, line in helped.items() if "bound" in line.replace("not a bound", "")]
    assert called == ["dpbitfit_client_epsilon_guaranteed"]


def test_its_messages(account: Account, accrued: float, reader: LedgerViews) -> None:
    with served(Monitor(reader)) as at, MonitorClient(str(at.grpc)) as client:
        result = client.account(NAME)
    one = result.account
    assert (one.guaranteed.epsilon, one.accrued.epsilon) == (ADAPTIVE_BUDGET, accrued)
    assert result.series[-1].accrued.epsilon == accrued
    assert no_bound() not in numbers(MessageToDict(result))
    assert f"at most epsilon {ADAPTIVE_BUDGET:.3f}" in one.sentence
    assert f"{accrued:.3f}, by RDP filter of order {account.filter_order}" in one.sentence
    assert status.ACCRUED in one.sentence


def test_its_table_in_the_terminal(
    account: Account,
    accrued: float,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    for more in ((), ("--quick",), ("--json",)):
        monkeypatch.setattr(sys, "argv", ["dpbitfit", "budget", "--ledger", url, *more])
        with pytest.raises(SystemExit) as ended:
            main()
        message = capsys.readouterr().out
        assert not ended.value.code
        assert status.INFORMATIVE in " ".join(message.split())
        if more == ("--json",):
            assert {accrued, ADAPTIVE_BUDGET} <= set(numbers(json.loads(message)))
            assert no_bound() not in numbers(json.loads(message))
        else:
            assert f"{accrued:.3f}" in message
            assert f"{ADAPTIVE_BUDGET:.3f}" in message
            assert f"{no_bound():.3f}" not in message


def test_a_run_of_an_older_version_shows_no_epsilon(page: TestClient, out: Path) -> None:
    """Its figure was called a bound and was none."""
    lines = [json.loads(line) for line in (out / "progress.jsonl").read_text().splitlines()]
    for line in lines:
        del line["guaranteed"], line["accrued"]
    written = (json.dumps({**line, "epsilon": 5.125}) for line in lines)
    (out / "progress.jsonl").write_text("\n".join(written))
    assert "5.125" not in page.get("/runs/r1").text
