"""``dpbitfit plan``: a table, figures as JSON, and what the plan costs on a ledger's accounts."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dpbitfit.accounting.mechanism import Mechanism
from dpbitfit.errors import BudgetError, InputError, LedgerError
from dpbitfit.ledger import AccountName, Ledger
from dpbitfit.ledger.status import budget_status
from dpbitfit.plan_command import command

from ..support import ledgers
from ..support.ledgers import NAME, OTHER, run_rounds, steps

FEW = ("--labels", "2", "--declared-size", "2000", "--target-epsilon", "1")


def plan(*arguments: str) -> Result:
    result = CliRunner().invoke(command, arguments)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_it_says_what_each_phase_costs_and_buys() -> None:
    all_phases = (*FEW, "--phases", "class-sums,head,biases")
    printed = " ".join(plan(*all_phases).output.split())
    for words in ("class-sums", "head", "biases", "together epsilon ", "moves the features"):
        assert words in printed
    figures = json.loads(plan(*all_phases, "--json").output)
    assert [row["phase"] for row in figures["phases"]] == ["class-sums", "head", "biases"]
    assert max(row["epsilon_alone"] for row in figures["phases"]) < figures["epsilon"] <= 1.0
    assert figures["phases"][0]["bytes_up"] == 4 * 2 * 384


def test_it_says_why_it_has_no_biases() -> None:
    noisy = plan(*FEW, "--target-epsilon", "0.5").output
    assert "no biases: with so much noise" in " ".join(noisy.split())
    many = plan("--labels", "90", *FEW[2:], "--json").output
    assert "fewer than 300 units a label" in json.loads(many)["no_biases"]
    for without_a_word in (("--phases", "class-sums,head"), ("--target-epsilon", "8")):
        assert "no biases" not in plan(*FEW, *without_a_word).output


def test_dp_zero_sends_little_and_reads_much() -> None:
    zero = (*FEW, "--phases", "dp-zero", "--rounds", "3", "--steps-per-round", "5", "--json")
    (row,) = json.loads(plan(*zero).output)["phases"]
    (gradients,) = json.loads(plan(*FEW, "--phases", "biases", *zero[-5:]).output)["phases"]
    assert (row["phase"], row["bytes_up"]) == ("dp-zero", 4 * 3 * 5 * 64)
    assert gradients["bytes_up"] > 50 * row["bytes_up"]
    assert row["minutes"] == pytest.approx(gradients["minutes"] * 2 * 64 / 3)
    assert row["noise_multiplier"] == gradients["noise_multiplier"]  # the same accounting
    assert "64 noised numbers a step" in row["buys"]
    fewer = json.loads(plan(*zero, "--directions", "16").output)["phases"][0]
    assert fewer["bytes_up"] == row["bytes_up"] / 4


def test_a_label_set_says_how_many_labels_there_are() -> None:
    named = plan(*FEW[2:], "--labels", "card,loan", "--json").output
    assert named == plan(*FEW, "--json").output


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """An account with a run, of which results were seen, and one that is new."""
    with Ledger(str(tmp_path / "ledger.sqlite"), create=True) as made:
        first = ledgers.account(made)
        ledgers.account(made, OTHER, budget=2.0)
        made.allot(NAME, "one", "plan", steps(100))
        run_rounds(made, first, "one", 2, steps(10))
        yield made


def on_ledger(ledger: Ledger, *arguments: str) -> list[Any]:
    """Each account of the ledger as ``--json`` says it."""
    url = str(ledger.database)
    return list(json.loads(plan(*arguments, "--json", "--ledger", url).output)["accounts"])


def biases(rounds: int, rate: float, noise: float) -> tuple[str, ...]:
    """Options of a plan of one phase, a step a round."""
    counts = ("--rounds", str(rounds), "--steps-per-round", "1", "--sampling-rate", str(rate))
    return (*counts, "--noise-multiplier", str(noise))


def test_a_ledgers_accounts_are_asked_whether_they_hold_it(tmp_path: Path) -> None:
    url = str(tmp_path / "ledger.sqlite")
    with Ledger(url, create=True) as ledger:
        ledger.open_account(AccountName("a", "letters", "record"), 1e-5, 2.0)
        (account,) = on_ledger(ledger, *FEW)
        assert account["fits"]
        assert account["approved"]["epsilon"] <= 1.0
        ledger.open_account(AccountName("b", "letters", "record"), 1e-5, 0.5)
    with pytest.raises(BudgetError, match="b/letters/record"):
        plan(*FEW, "--ledger", url)


def test_the_noise_that_would_fit_is_that_of_the_last_phase(ledger: Ledger) -> None:
    """Beside the others, and no less of it."""
    other = ("--account", str(OTHER))
    sums_and_head = (*FEW[:-1], "4", "--phases", "class-sums,head", *other)
    with pytest.raises(BudgetError, match=str(OTHER)):
        plan(*sums_and_head, "--ledger", str(ledger.database))
    # All of the budget of 2, where the target is all of it too: the planner's own noise.
    (fits,) = on_ledger(ledger, *FEW[:-1], "2", "--phases", "class-sums,head", *other)
    planned = json.loads(plan(*FEW[:-1], "2", "--phases", "class-sums,head", "--json").output)
    assert fits["fitting_noise_multiplier"] == planned["phases"][-1]["noise_multiplier"]
    (alone,) = on_ledger(ledger, *biases(200, 0.1, 100), *other)
    fitting = alone["fitting_noise_multiplier"]
    (enough,) = on_ledger(ledger, *biases(200, 0.1, fitting), *other)
    assert enough["fits"]
    assert 1.9 < enough["approved"]["epsilon"] <= 2.0
    with pytest.raises(BudgetError, match=str(OTHER)):
        on_ledger(ledger, *biases(200, 0.1, 0.9 * fitting), *other)
    assert ledger.account(OTHER).sequence == 1


def test_the_target_that_would_fit_is_the_largest_of_two_digits(ledger: Ledger) -> None:
    head = ("--labels", "77", "--declared-size", "2000", "--phases", "class-sums,head")
    of_account = ("--ledger", str(ledger.database), "--account", str(OTHER))

    def tried(target: float) -> Result:
        return CliRunner().invoke(command, [*head, "--target-epsilon", f"{target:g}", *of_account])

    printed = " ".join(tried(3).output.split())
    fitting = float(printed.split("with --target-epsilon ")[1].split(" it fits")[0])
    assert tried(fitting).exit_code == 0
    assert isinstance(tried(fitting + 0.1).exception, BudgetError)


def test_no_target_fits_where_all_is_spent(tmp_path: Path) -> None:
    with Ledger(str(tmp_path / "ledger.sqlite"), create=True) as ledger:
        ledger.open_account(NAME, 1e-5, 0.005)
        result = CliRunner().invoke(command, [*FEW, "--ledger", str(ledger.database)])
    assert isinstance(result.exception, BudgetError)
    assert "no --target-epsilon from 0.01 on fits" in " ".join(result.output.split())


def test_beside_results_the_filter_counts(ledger: Ledger) -> None:
    """A plan after results may cost half of what it raises the account's guarantee by."""
    (account, _) = on_ledger(ledger, *biases(50, 0.02, 4.0))
    assert account["approved"]["accountant"].startswith("RDP filter")
    before = budget_status(ledger, ledger.account(NAME)).guaranteed
    assert account["guaranteed_before"] == before.describe()
    approval = ledger.allot(NAME, "two", "plan", ((Mechanism(4.0, 0.02), 50),))
    assert approval.bound.epsilon == account["approved"]["epsilon"]
    after = budget_status(ledger, ledger.account(NAME)).guaranteed
    assert account["guaranteed"] == after.describe()
    assert account["alone"]["epsilon"] < after.bound.epsilon - before.bound.epsilon


def test_the_price_is_told_in_words_and_nothing_of_a_programmers(ledger: Ledger) -> None:
    url = ("--ledger", str(ledger.database))
    printed = " ".join(plan(*biases(50, 0.02, 4.0), "--account", str(OTHER), *url).output.split())
    assert "by itself; the account's guaranteed epsilon goes from 0.000 to " in printed
    assert "of a budget of 2," in printed
    result = CliRunner().invoke(command, [*biases(50, 0.02, 0.3), *url])
    printed += " ".join(result.output.split())
    assert f"account {NAME}: with this plan, all that is approved takes epsilon " in printed
    assert "it does not fit with noise multiplier " in printed
    assert " for biases it fits" in printed
    for sign in ("{", "}", "(<", "Mechanism(", "Allotment(", "('", "None", "Name("):
        assert sign not in printed


def test_without_a_ledger_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="ledger init"):
        plan(*FEW, "--ledger", str(tmp_path / "none.sqlite"))
    assert not list(tmp_path.iterdir())
    with Ledger(str(tmp_path / "ledger.sqlite"), create=True) as ledger:
        ledgers.account(ledger)
    with pytest.raises(InputError, match="SITE/DATASET/UNIT"):
        plan(*FEW, "--ledger", str(ledger.database), "--account", "north")


def test_what_cannot_be_is_named() -> None:
    with pytest.raises(InputError, match="phases"):
        plan(*FEW, "--phases", "heads")
    for option in (("--labels", "1"), ("--declared-size", "0")):
        with pytest.raises(InputError, match="two labels or more, and a --declared-size of 1"):
            plan(*FEW, *option)
