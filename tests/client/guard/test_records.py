"""What the records hold is reported to the site, and changes no answer that costs nothing."""

import csv
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from dpbitfit_client.guard.records import Records
from dpbitfit_client.guard.service import serving
from dpbitfit_client.message import Refused
from dpbitfit_client.policy.policy import Policy

from dpbitfit.data.tables import Table
from dpbitfit.errors import InputError
from dpbitfit.protocol.envelope import Envelope
from dpbitfit.protocol.messages import Refusal
from dpbitfit.tasks.text_classification.task import TextClassification

from ...support import plans, warm
from ...support.policies import changed
from ...support.sites import GOOD, SECONDS, Site, begin, key_of, made

LETTERS = ("datasets", "letters")
PARTS = (LETTERS, (*LETTERS, "evaluation"))
COLUMNS = ("text", "label", "customer")
MEASURED = plans.plan(GOOD, metrics="accuracy", evaluations=6)
SECRET = "my secret diagnosis"

Row = dict[str, str]
Change = Callable[[list[Row]], list[Row]]


def with_row(**values: str) -> Change:
    """The same rows, the second of them with other values."""
    return lambda rows: [rows[0], {**rows[1], **values}, *rows[2:]]


USABLE: dict[str, Change] = {
    "one more": lambda rows: [*rows, rows[0]],
    "one only": lambda rows: rows[:1],
    "another label": lambda rows: [{**rows[0], "label": rows[1]["label"]}, *rows[1:]],
    "another person": with_row(customer="somebody else"),
    "nothing to tokenise": with_row(text="\u200b"),
    "what a tokenizer might take for its own": with_row(text="[PAD] [MASK] \0 \ufffe"),
    "longer than any model reads": with_row(text="word " * 5000),
}
UNUSABLE: dict[str, tuple[Change, str]] = {
    "a label outside the set": (with_row(label=SECRET), "row 2: its label is not in"),
    "no label": (with_row(label=""), "row 2: column 'label' is empty"),
    "no text": (with_row(text=" "), "row 2: column 'text' is empty"),
    "no unit": (with_row(customer=""), "row 2: column 'customer' is empty"),
    "no rows": (lambda rows: [], "cannot be read|there are no records|no column"),
}


@pytest.fixture
def rows(corpus: Path) -> list[Row]:
    with corpus.open(encoding="utf-8") as file:
        return [{name: row[name] for name in COLUMNS} for row in csv.DictReader(file)][:30]


def write(path: Path, rows: list[Row]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


@contextmanager
def site_with(corpus: Path, training: list[Row], measuring: list[Row]) -> Iterator[Site]:
    """A site whose records lie in two files of its folder; its guard has not started."""
    with made(corpus) as site:
        for part, name, own in zip(
            PARTS, ("letters", "held-out"), (training, measuring), strict=True
        ):
            file = site.folder / f"{name}.csv"
            write(file, own)
            site.values = changed((*part, "loader"), ..., site.values)
            site.values = changed((*part, "path"), str(file), site.values)
            site.values = changed((*part, "unit-column"), "customer", site.values)
        labels = site.folder / "labels.txt"
        labels.write_text(corpus.with_suffix(".labels.txt").read_text())
        site.write(((*LETTERS, "labels"), str(labels)))
        site.office.accounts = {
            "train": "hospital-1/letters/customer",
            "evaluate": "hospital-1/letters:evaluation/customer",
        }
        begin(site.ledger_file)
        site.begun = True
        yield site


def public(answer: Envelope | Refusal) -> tuple[dict[str, Any], int]:
    """All that an answer states but noise, and but what time and a fresh key make of it."""
    refused = isinstance(answer, Refusal)
    statement = answer.encode() if isinstance(answer, Refusal) else answer.statement
    values: dict[str, Any] = json.loads(statement)
    if values["head"] is not None:
        for hidden in ("head", "seen_head", "ledger", "coordinator", "signature"):
            del values["head"][hidden]
    if refused:
        values["untouched"] = bool(values["untouched"])
    if "metrics" in values:
        values["metrics"] = dict.fromkeys(values["metrics"], 0.0)
    return values, 0 if isinstance(answer, Refusal) else len(answer.content)


def answers(site: Site) -> list[Any]:
    """What a coordinator learns from every kind of question, in one order, under the same keys."""
    good, measured = (site.plan(plans.plan(plan, unit="customer")) for plan in (GOOD, MEASURED))
    asked = [
        ("train", plans.plan(good, noise_multiplier=0.5)),
        ("train", plans.plan(good, model_digest="2" * 64)),
        ("evaluate", plans.plan(measured, metrics="loss")),
        ("train", good),
        ("evaluate", measured),
        ("train", plans.plan(good, learning_rate=0.5)),
        ("train", good),
    ]
    result: list[Any] = []
    question = site.office.question(good)
    for number, (purpose, plan) in enumerate(asked):
        result.append(public(site.relay().describe(question)))
        request = site.request(plan, purpose, key=f"key-{number:012}")
        try:
            result.append(public(getattr(site.relay(), purpose)(request)))
        except Refused as refused:
            result.append(public(refused.refusal))
    return result


@pytest.fixture(scope="module")
def usual(corpus: Path) -> list[Any]:
    """The answers for the records as they are."""
    with corpus.open(encoding="utf-8") as file:
        rows = [{name: row[name] for name in COLUMNS} for row in csv.DictReader(file)][:30]
    with site_with(corpus, rows, rows[:20]) as site, serving(Policy.read(site.policy)):
        result = answers(site)
    refused = [values["code"] for values, _ in result if "code" in values]
    assert refused == ["policy", "protocol", "policy", "protocol"]
    assert sum("round" in values for values, _ in result) == 3
    assert sum(size > 0 for _, size in result) == 2
    return result


@pytest.mark.parametrize("variant", USABLE)
def test_every_answer_is_the_same_whatever_usable_records_hold(
    corpus: Path, rows: list[Row], usual: list[Any], variant: str
) -> None:
    own = USABLE[variant](rows), USABLE[variant](rows[:20])
    with site_with(corpus, *own) as site, serving(Policy.read(site.policy)):
        assert answers(site) == usual


@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("variant", UNUSABLE)
def test_with_unusable_records_there_is_no_guard_and_the_error_names_the_row(
    corpus: Path, rows: list[Row], variant: str, part: int
) -> None:
    change, reason = UNUSABLE[variant]
    parts = [rows, rows[:20]]
    parts[part] = change(parts[part])
    with site_with(corpus, *parts) as site:
        with pytest.raises(InputError, match=reason) as error, serving(Policy.read(site.policy)):
            pass
        assert SECRET not in str(error.value)
        assert ("letters.csv", "held-out.csv")[part] in str(error.value)
        assert not site.socket.exists()


@pytest.mark.parametrize("change", ["vanished", "damaged", "no text", "one more"])
def test_records_that_change_while_the_guard_serves_change_no_answer(
    corpus: Path, rows: list[Row], usual: list[Any], change: str
) -> None:
    with site_with(corpus, rows, rows[:20]) as site, serving(Policy.read(site.policy)) as guard:
        assert list(guard.records.changes()) == []
        for name in ("letters", "held-out"):
            file = site.folder / f"{name}.csv"
            if change == "vanished":
                file.unlink()
            elif change == "damaged":
                file.write_bytes(b"\xff\0")
            else:
                edit = {**USABLE, **{k: v for k, (v, _) in UNUSABLE.items()}}[change]
                write(file, edit(rows))
        (site.folder / "labels.txt").write_text("others\nthan before\n")
        assert answers(site) == usual
        notices = "\n".join(guard.records.changes())
        assert "the files of letters changed; served is what was read at the start" in notices
        assert SECRET not in notices
        assert list(guard.records.changes()) == []  # each change is reported once


def test_a_change_is_reported_with_its_consequence(corpus: Path, rows: list[Row]) -> None:
    with site_with(corpus, rows, rows[:20]) as site:
        records = Records(Policy.read(site.policy))
        write(site.folder / "letters.csv", rows[:10])
        assert (
            list(records.changes())[1]
            == "letters as it is now: usable, from the guard's next start"
        )
        write(site.folder / "held-out.csv", UNUSABLE["a label outside the set"][0](rows))
        _, verdict = records.changes()
        assert verdict.endswith("held-out.csv: row 2: its label is not in the public label set")


def test_what_goes_wrong_with_a_record_in_a_round_is_charged(
    corpus: Path, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tokenizer that stumbles over one record: else that would be an answer for nothing."""

    def fail(_task: TextClassification, _table: Table) -> None:
        raise ValueError(SECRET)

    with site_with(corpus, rows, rows[:20]) as site, serving(Policy.read(site.policy)):
        good, measured = (site.plan(plans.plan(plan, unit="customer")) for plan in (GOOD, MEASURED))
        monkeypatch.setattr(TextClassification, "records", fail)
        for purpose, plan in (("train", good), ("evaluate", measured)):
            request = site.request(plan, purpose)
            with pytest.raises(Refused) as refused:
                getattr(site.relay(), purpose)(request)
            assert refused.value.refusal.code == "round-failed"
            assert not refused.value.refusal.untouched
            assert site.outcome(key_of(request)) == ("committed", "ended early")
        assert site.spent() == site.spent("letters:evaluation") == {"committed": 1}


def test_a_person_whose_name_is_spelled_in_several_ways_is_one_unit(
    corpus: Path, rows: list[Row]
) -> None:
    spellings = ("Ann Bo", "Ann  Bo", "Ann Bo\u200b", "\ufeffAnn Bo ", "Ann\u00a0Bo")
    own = [{**row, "customer": name} for row, name in zip(rows, spellings, strict=False)]
    with site_with(corpus, own, own) as site:
        records = Records(policy := Policy.read(site.policy))
        for part in policy.datasets["letters"].parts:
            (unit,) = records.table(part).unit_records()
            assert len(unit) == len(spellings)


def test_a_metric_that_the_task_does_not_have_is_found_at_the_start(corpus: Path) -> None:
    """In a round it would end what was charged."""
    with made(corpus) as site:
        site.write()
        policy = Policy.read(site.policy)
        letters = policy.datasets["letters"]
        assert letters.evaluation is not None
        metrics = {**letters.evaluation.metrics, "recall": letters.evaluation.metrics["accuracy"]}
        evaluation = letters.evaluation.model_copy(update={"metrics": metrics})
        datasets = {"letters": letters.model_copy(update={"evaluation": evaluation})}
        with pytest.raises(InputError, match=r"letters\.evaluation.* no metric 'recall'"):
            Records(policy.model_copy(update={"datasets": datasets}))


def broken() -> dict[str, list[str]]:
    raise ValueError(SECRET)


def half_a_surrogate() -> dict[str, list[str]]:
    return {"text": ["fine", "\ud800"], "label": ["card_lost", "card_lost"]}


@pytest.mark.parametrize(
    ("loader", "reason"),
    [
        ("broken", "ValueError was raised: see what raises it"),
        ("half_a_surrogate", "row 2: column 'text' is no Unicode text"),
        ("absent", "there is no such function"),
    ],
)
def test_a_failing_loader_is_reported_without_its_message(
    corpus: Path, loader: str, reason: str
) -> None:
    with made(corpus) as site:
        site.write(((*LETTERS, "loader"), f"{__name__}:{loader}"))
        with pytest.raises(InputError, match=reason) as error:
            Records(Policy.read(site.policy))
        assert SECRET not in str(error.value)


def test_a_guard_process_serves_what_it_has_read_and_does_not_start_on_what_is_wrong(
    corpus: Path, rows: list[Row]
) -> None:
    """Its log names the row; the coordinator sees no difference but that it is gone."""
    with site_with(corpus, rows, rows[:20]) as site:
        site.start()
        plan = site.plan(plans.plan(GOOD, unit="customer"))
        assert site.train(plan).content
        write(site.folder / "letters.csv", UNUSABLE["a label outside the set"][0](rows))
        last = time.monotonic() + SECONDS
        while "letters.csv: row 2: its label is not in" not in site.log.read_text():
            assert time.monotonic() < last
            time.sleep(0.2)
        assert site.train(plan).content
        site.end()
        words = ("guard", "serve", "--policy", str(site.policy))
        done = warm.run(warm.MAIN, *words, env=site.environment, timeout=SECONDS)
        assert done.returncode == 2
        assert "letters.csv: row 2: its label is not in the public label set" in done.stderr
        *checked, last_line = done.stderr.strip().splitlines()
        assert last_line.startswith("error: ")
        assert all(" dpbitfit.guard " in line for line in checked)
        assert SECRET not in done.stderr + site.log.read_text()
