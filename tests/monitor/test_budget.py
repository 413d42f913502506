"""``dpbitfit budget``: its output and exit codes."""

import json
import sys
from collections.abc import Callable

import pytest
import sqlalchemy as sa
from dpbitfit_monitor import budget
from typer.testing import CliRunner

from dpbitfit.accounting import composition
from dpbitfit.cli import main
from dpbitfit.ledger import Account, AccountName, Ledger, schema
from dpbitfit.ledger.cli import app as ledger_app
from tests.support.ledgers import DELTA, NAME, OTHER, STEP

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setenv("COLUMNS", "150")

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dpbitfit", "budget", "--ledger", url, *words])
        with pytest.raises(SystemExit) as ended:
            main()
        output = capsys.readouterr()
        return int(ended.value.code or 0), output.out, output.err

    return call


def test_every_account_with_its_bar(north: Account, south: Account, run: Run) -> None:
    code, out, _ = run()
    assert code == 0
    for text in (str(NAME), str(OTHER), "█", "ok", "rounds left", "just now", "never"):
        assert text in out
    assert "≤ 0" not in out
    assert "≤ 0" in run("--quick")[1]


def test_eighty_columns_cut_nothing_off(
    north: Account, run: Run, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = AccountName("harbour-university-hospital", "discharge letters", "patient")
    ledger.open_account(long, DELTA, 12.25)
    monkeypatch.setenv("COLUMNS", "80")
    out = run("--quick")[1]
    assert "…" not in out
    squeezed = "".join(line[:17].strip() for line in out.splitlines()).replace(" ", "")
    assert str(long).replace(" ", "") in squeezed
    for text in ("12.25", "1e-05", "last seen", "ok", "just now", "never"):
        assert text in out
    assert max(map(len, out.splitlines())) <= 80


def test_json_says_the_same_and_more(north: Account, south: Account, run: Run) -> None:
    code, out, _ = run("--json")
    content = json.loads(out)
    assert code == 0
    first, second = content["accounts"]
    assert (first["account"], first["site"], first["state"]) == (str(NAME), "north", "ok")
    bound = composition.epsilon({STEP: 40}, DELTA)
    assert first["accrued"]["epsilon"] == bound.epsilon
    assert first["accrued"]["accountant"] == bound.accountant
    assert "adding or removing one unit" in first["sentence"]
    assert (second["last_seen"], second["rounds_left"]) == (None, None)
    assert content["alerts"] == content["unreadable"] == []


@pytest.mark.parametrize("words", [(), ("--quick",)])
def test_the_ledgers_own_list_shows_the_same_figures(
    words: tuple[str, ...], north: Account, south: Account, run: Run, ledger: Ledger
) -> None:
    """Which command is typed makes no figure larger, and none has two names."""
    shown = json.loads(run("--json", *words)[1])["accounts"]
    address = ("accounts", "--ledger", str(ledger.database), "--json", *words)
    done = CliRunner().invoke(ledger_app, address)
    for row, listed in zip(shown, json.loads(done.stdout), strict=True):
        same = {"account", "budget", "delta", "left", *(() if words else ("guaranteed", "accrued"))}
        assert {name: row[name] for name in same} == {name: listed[name] for name in same}
        assert "promised" not in row | listed


def test_a_spent_budget_is_exit_code_3(north: Account, run: Run, ledger: Ledger) -> None:
    ledger.set_budget(NAME, composition.epsilon({STEP: 40}, DELTA).epsilon, "all of it")
    code, out, err = run()
    assert code == 3
    assert "critical: north/letters/person: 100 % of its budget" in out
    assert "the budget of north/letters/person is spent" in " ".join(err.split())


def test_what_cannot_be_read_is_exit_code_4(
    north: Account, south: Account, run: Run, ledger: Ledger
) -> None:
    row = schema.account.c.id == north.id
    with ledger.database.write() as connection:
        connection.execute(sa.update(schema.account).where(row).values(budget="many"))
    code, out, _ = run()
    assert code == 4
    assert "unreadable" in out
    assert str(OTHER) in out
    with ledger.database.write() as connection:
        connection.exec_driver_sql(f"UPDATE {schema.VERSION_TABLE} SET version_num = '9999'")
    code, out, err = run()
    assert (code, out) == (4, "")
    assert "upgrade dpbitfit" in err


def test_words_from_elsewhere_steer_no_terminal(north: Account, run: Run, ledger: Ledger) -> None:
    with ledger.database.write() as connection:
        connection.execute(sa.update(schema.account).values(site="\x1b[2J[red]"))
    assert "\x1b" not in run("--quick")[1]


@pytest.mark.parametrize("words", [("--watch",), ("--watch", "--json")])
def test_watching_goes_on_and_says_when_the_ledger_is_away(
    words: tuple[str, ...],
    north: Account,
    run: Run,
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: list[float] = []
    versions = iter(("9999", schema.REVISION))

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == (3 if "--json" in words else 2):  # a table that is no terminal's: the last
            raise SystemExit(130)
        with ledger.database.write() as connection:
            change = f"UPDATE {schema.VERSION_TABLE} SET version_num = '{next(versions)}'"
            connection.exec_driver_sql(change)

    monkeypatch.setattr(budget.time, "sleep", sleep)
    code, out, _ = run("--interval", "7", *words)
    assert code == 130
    assert set(looks) == {7}
    if "--json" in words:
        first, second, third = (json.loads(line) for line in out.splitlines())
        assert set(second) == {"at", "error"}
        assert first["accounts"][0]["run"] == third["accounts"][0]["run"] == "one"
    else:
        assert "newer version" in " ".join(out.split())
        assert "█" not in out
