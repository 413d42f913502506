"""A policy in plain words says what is allowed, and what it can cost at most."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from dpbitfit_client.policy.policy import Policy
from dpbitfit_client.policy.prose import explain
from dpbitfit_client.policy.summary import describe

from dpbitfit.accounting.composition import epsilon
from dpbitfit.accounting.mechanism import Mechanism
from dpbitfit.engine.clipping import CLIPPINGS
from dpbitfit.errors import AccountingError
from tests.support.policies import POLICY, Key, changed, read

LETTERS: Key = ("datasets", "letters")
LIMITS: Key = (*LETTERS, "coordinators", "trial-office")
EVALUATION: Key = (*LETTERS, "evaluation")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "policy.toml"


def words(policy: Policy) -> str:
    return " ".join(explain(policy).split())


def letters(policy: Policy) -> dict[str, Any]:
    dataset: dict[str, Any] = describe(policy)["datasets"]["letters"]
    return dataset


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("cuda:1", "Models compute on the device 'cuda:1', whatever a coordinator asks."),
        (["cuda:0", "cuda:1"], "Models compute on the devices cuda:0, cuda:1, which share"),
        (
            "cuda:0+cuda:1",
            "the device 'cuda:0+cuda:1', each model split over those joined by '+', whatever",
        ),
    ],
)
def test_devices_are_named(file: Path, value: Any, sentence: str) -> None:
    policy = read(file, changed(("site", "device"), value))
    assert sentence in words(policy)
    assert describe(policy)["device"] == (value if isinstance(value, str) else "cuda:0, cuda:1")


def test_another_precision_is_named(file: Path) -> None:
    assert "multiply" not in words(read(file))
    policy = read(file, changed(("site", "precision"), "bfloat16"))
    assert "and their layers multiply in bfloat16, whatever a coordinator asks" in words(policy)


def test_everything_that_decides_is_explained(file: Path) -> None:
    text = words(read(file))
    for fact in (
        "What site hospital-1 allows",
        "group dpbitfit-relay",
        f"the holder of the key {'ab' * 32}",
        "/srv/letters.csv, declared as 4,000 units",
        "all records together that have the same patient",
        "at most epsilon 6 at delta 1e-05 (add or remove one patient)",
        "noise multiplier of at least 0.8",
        "at most 0.2 of the units",
        "50 rounds of 20 steps",
        "heads: labels, trained",
        f"Clipping: {', '.join(CLIPPINGS)}; adaptive norms follow noised counts",
        "Phases: class-sums, head, biases; a round of class-sums or head is one step with all",
        "In a phase of the head, a sum over all units instead",
        "for the task text-classification",
        "triage: hospital.tasks:Triage, code of this site.",
        "64 tokens",
        "none is further from its pretrained value than 4.",
        "biases and of its head",
        "The accuracy on the evaluation records of letters, with noise of multiplier 20",
        f"the digest {'cd' * 32}",
        "a whole multiple of 60 seconds",
        "How many records or persons there are",
    ):
        assert fact in text


def test_lines_are_short_enough_to_print_unless_a_word_is_long(file: Path) -> None:
    lines = explain(read(file)).splitlines()
    assert max(map(len, lines)) <= 88


def test_the_figures_are_plain_values_for_json(file: Path) -> None:
    facts = describe(read(file))
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts


def test_one_coordinator_can_spend_its_share_and_several_the_budget(file: Path) -> None:
    assert letters(read(file))["most_epsilon"] == 6
    two = changed(("coordinators", "b", "public-key"), "ef" * 32)
    share = {**POLICY["datasets"]["letters"]["coordinators"]["trial-office"], "epsilon": 1.0}
    two = changed((*LETTERS, "coordinators", "b"), share, two)
    assert letters(read(file, two))["most_epsilon"] == 8
    policy = read(file, changed(LIMITS, ...))
    assert letters(policy)["most_epsilon"] == 0
    assert "No coordinator may train on it." in words(policy)


@pytest.mark.parametrize("phases", [["biases"], ["biases", "head"]])
def test_a_plan_at_the_extremes_costs_what_the_accountants_say(
    file: Path, phases: list[str]
) -> None:
    """Where a round may be one step with all units, any mixture of both kinds is covered."""
    policy = read(file, changed((*LIMITS, "phases"), phases))
    limits = letters(policy)["coordinators"]["trial-office"]
    full = {Mechanism(0.8, 1.0): 50} if "head" in phases else {}
    bound = epsilon({Mechanism(0.8, 0.2): 1000, **full}, 1e-5)
    assert limits["cost"]["epsilon"] == bound.epsilon > limits["epsilon"]
    assert limits["binds"] == "budget"
    up = math.ceil(bound.epsilon * 1000) / 1000
    assert f"would cost epsilon {up:.3f} ({bound.accountant}" in words(policy)
    assert "the budget binds first" in words(policy)


def test_limits_may_bind_before_the_budget(file: Path) -> None:
    policy = read(file, changed((*LIMITS, "min-noise-multiplier"), 8.0))
    limits = letters(policy)["coordinators"]["trial-office"]
    assert limits["cost"]["epsilon"] < 6
    assert limits["binds"] == "limits"
    assert "the limits bind first" in words(policy)


def test_an_evaluation_has_its_own_cost(file: Path) -> None:
    policy = read(file)
    metric = letters(policy)["evaluation"]["metrics"]["accuracy"]
    assert metric["cost"]["epsilon"] == epsilon({Mechanism(20.0, 1.0): 1}, 1e-6).epsilon
    assert any(
        "epsilon 7 in all, at delta 1.1e-05" in warning for warning in describe(policy)["warnings"]
    )
    none = read(file, changed(EVALUATION, ...))
    assert letters(none)["evaluation"] is None
    assert "Nothing is ever evaluated on private records." in words(none)
    assert "evaluation records" not in words(none)


def notes(**values: Any) -> dict[str, Any]:
    """The policy with a second dataset, without evaluation."""
    more = {**POLICY["datasets"]["letters"], "path": "/srv/notes.csv", **values}
    return changed(("datasets", "notes"), {k: v for k, v in more.items() if k != "evaluation"})


def test_people_in_several_datasets_lose_in_each_unless_they_share_an_account(file: Path) -> None:
    """Epsilon 6 of each dataset's only coordinator, and 1 of the evaluation."""

    def warned(policy: Policy) -> list[str]:
        return [text for text in describe(policy)["warnings"] if "share one account" in text]

    assert not warned(read(file))
    (apart,) = warned(read(file, notes(account="others")))
    assert "The datasets letters, notes do not all share one account" in apart
    assert "can lose epsilon 13 in all, evaluations included, at delta 2.1e-05" in apart
    policy = read(file, notes())
    assert not warned(policy)
    assert letters(policy)["shares_account_with"] == ["notes"]
    assert letters(policy)["most_epsilon"] == 6
    assert "trained on them and on notes together (one account) under this policy" in words(policy)


def test_who_spends_through_another_dataset_of_the_account_counts_too(file: Path) -> None:
    two = changed(("coordinators", "b", "public-key"), "ef" * 32, notes())
    share = POLICY["datasets"]["letters"]["coordinators"]["trial-office"]
    two = changed(("datasets", "notes", "coordinators"), {"b": share}, two)
    assert letters(read(file, two))["most_epsilon"] == 8


@pytest.mark.parametrize(
    ("key", "value", "warning"),
    [
        (("site", "reply-slot-seconds"), 0, "Replies are not held back"),
        ((*LETTERS, "delta"), 3e-4, "Dataset letters: delta 0.0003 promises nothing"),
        ((*EVALUATION, "delta"), 3e-3, "The evaluation of letters: delta 0.003 promises nothing"),
        ((*LETTERS, "epsilon"), 10.5, "Dataset letters: an epsilon of 10.5"),
        ((*EVALUATION, "epsilon"), 11, "The evaluation of letters: an epsilon of 11"),
        ((*LIMITS, "min-noise-multiplier"), 0.49, "trial-office may ask for a noise multiplier"),
        (LIMITS, ..., "Dataset letters: no coordinator may train on it"),
    ],
)
def test_what_is_unwise_is_warned_of(file: Path, key: Key, value: Any, warning: str) -> None:
    def warned(policy: Policy) -> bool:
        return any(warning in text for text in describe(policy)["warnings"])

    assert not warned(read(file))
    policy = read(file, changed(key, value))
    assert warned(policy)
    assert warning in words(policy)


def test_timing_is_explained_where_replies_are_not_held_back(file: Path) -> None:
    text = words(read(file, changed(("site", "reply-slot-seconds"), 0)))
    assert "a coordinator can measure it; no epsilon covers that" in text


def test_a_ledger_that_every_user_can_reach_is_warned_of(file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "ledger"
    policy = read(file, changed(("site", "ledger"), str(folder / "ledger.sqlite")))
    for mode, warned in ((0o700, False), (0o750, False), (0o755, True), (0o751, True)):
        folder.mkdir(exist_ok=True)
        folder.chmod(mode)
        assert any(str(folder) in text for text in describe(policy)["warnings"]) is warned


def test_no_warning_is_written_too(file: Path) -> None:
    quiet = changed(("site", "ledger"), "/absent/ledger", changed(EVALUATION, ...))
    assert explain(read(file, quiet)).endswith("Warnings\n  - None.\n")


@pytest.mark.parametrize("url", ["dp:secret@host/ledger", "host/ledger?user=dp&password=secret"])
def test_a_password_is_not_shown(file: Path, url: str) -> None:
    policy = read(file, changed(("site", "ledger"), f"postgresql://{url}"))
    assert "secret" not in json.dumps(describe(policy)) + explain(policy)
    assert "host/ledger" in explain(policy)


def test_a_record_level_unit_says_what_it_does_not_protect(file: Path) -> None:
    policy = read(file, changed((*LETTERS, "unit-column"), ...))
    assert letters(policy)["adjacency"] == "add or remove one record"
    assert "a person with many is protected less" in words(policy)


def test_a_distance_that_follows_from_the_plan_is_explained(file: Path) -> None:
    policy = read(file, changed((*LIMITS, "max-bias-distance"), ...))
    assert letters(policy)["coordinators"]["trial-office"]["max_bias_distance"] is None
    assert (
        "than ten times what honest training by the plan can reach (at least 1, at most 10)."
        in words(policy)
    )


def test_a_cost_that_no_accountant_bounds_is_over_every_budget(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AccountingError("no accountant bounds this composition")

    monkeypatch.setattr("dpbitfit_client.policy.summary.epsilon", fail)
    policy = read(file)
    assert letters(policy)["coordinators"]["trial-office"]["cost"] is None
    assert letters(policy)["coordinators"]["trial-office"]["binds"] == "budget"
    assert "more than any accountant bounds" in words(policy)


def test_dp_zero_is_explained_where_it_is_allowed(file: Path) -> None:
    text = words(read(file))
    assert "dp-zero" not in text
    text = words(read(file, changed((*LIMITS, "phases"), ["biases", "dp-zero"])))
    assert "Phases: biases, dp-zero. A step of dp-zero looks along at most 32 public" in text
    assert "how the losses change along public random directions" in text
    assert "The change of the model's biases" in text
    assert "In a phase of the head" not in text
    alone = words(read(file, changed((*LIMITS, "phases"), ["dp-zero"])))
    assert "The change of the model's biases" not in alone
    assert "how the losses change along public random directions" in alone


def test_dp_zero_costs_what_its_steps_do(file: Path) -> None:
    policy = read(file, changed((*LIMITS, "phases"), ["dp-zero"]))
    cost = letters(policy)["coordinators"]["trial-office"]["cost"]
    assert cost["epsilon"] == epsilon({Mechanism(0.8, 0.2): 1000}, 1e-5).epsilon
