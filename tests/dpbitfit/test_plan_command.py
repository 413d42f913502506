"""``dpbitfit plan``: a table, figures as JSON, and what the plan costs on a ledger's accounts."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dpbitfit.errors import BudgetError, InputError
from dpbitfit.ledger import AccountName, Ledger
from dpbitfit.plan_command import command

FEW = ("--labels", "2", "--declared-size", "2000", "--target-epsilon", "1")


def plan(*arguments: str) -> Result:
    result = CliRunner().invoke(command, arguments)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_it_says_what_each_phase_costs_and_buys() -> None:
    printed = " ".join(plan(*FEW).output.split())
    for words in ("class-sums", "head", "biases", "together epsilon ", "moves the features"):
        assert words in printed
    figures = json.loads(plan(*FEW, "--json").output)
    assert [row["phase"] for row in figures["phases"]] == ["class-sums", "head", "biases"]
    assert max(row["epsilon_alone"] for row in figures["phases"]) < figures["epsilon"] <= 1.0
    assert figures["phases"][0]["bytes_up"] == 4 * 2 * 384


def test_a_label_set_says_how_many_labels_there_are() -> None:
    named = plan(*FEW[2:], "--labels", "card,loan", "--json").output
    assert named == plan(*FEW, "--json").output


def test_a_ledgers_accounts_are_asked_whether_they_hold_it(tmp_path: Path) -> None:
    url = str(tmp_path / "ledger.sqlite")
    with Ledger(url, create=True) as ledger:
        ledger.open_account(AccountName("a", "letters", "record"), 1e-5, 2.0)
    (account,) = json.loads(plan(*FEW, "--json", "--ledger", url).output)["accounts"]
    assert account["fits"]
    assert account["approved"] <= 1.0
    with Ledger(url) as ledger:
        ledger.open_account(AccountName("b", "letters", "record"), 1e-5, 0.5)
    with pytest.raises(BudgetError, match="b/letters/record"):
        plan(*FEW, "--ledger", url)


def test_what_cannot_be_is_named() -> None:
    with pytest.raises(InputError, match="phases"):
        plan(*FEW, "--phases", "heads")
