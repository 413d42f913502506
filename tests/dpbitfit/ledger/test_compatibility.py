"""A ledger that commit 468e210 wrote verifies, exports the same bytes, and goes on.

``written_by_468e210`` holds its SQLite dump, its export, the copy of its heads, and what
that commit derived from it. One account has every kind of event, one is of evaluations,
and one has the spellings of the first version, without a coordinator of void keys and
without the allotted steps of a rebase.
"""

import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest

from dpbitfit.accounting.mechanism import Mechanism
from dpbitfit.ledger import Account, AccountName, Ledger, exchange, export, status
from dpbitfit.ledger.canonical import counts_to_text
from dpbitfit.ledger.heads import Heads
from dpbitfit.ledger.importing import import_events
from dpbitfit.ledger.outbox import Reply

WRITTEN = Path(__file__).parent / "written_by_468e210"
EXPECTED = json.loads((WRITTEN / "expected.json").read_text())
EXPORTED = (WRITTEN / "export.jsonl").read_bytes()
LETTERS = AccountName("north", "letters", "patient")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """The ledger, restored."""
    path = tmp_path / "ledger.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript((WRITTEN / "ledger.sql").read_text())
    return Ledger(str(path))


def derived(ledger: Ledger, account: Account) -> dict[str, Any]:
    """What ``expected.json`` holds of an account, as this version derives it."""
    tally = ledger.verify(account)
    figures = status.verified_status(ledger, account, tally.allotments)
    heads = {
        coordinator: exchange.head_for(ledger, account, coordinator, coordinator, "k")
        for coordinator in sorted({held.coordinator for held in tally.allotments.values()} - {""})
    }
    return {
        "account": list(account.name),
        "delta": account.delta,
        "budget": account.budget,
        "filter_order": account.filter_order,
        "events": account.sequence,
        "head": account.head,
        "guaranteed": pytest.approx(figures.promised, rel=1e-6),
        "accrued": pytest.approx(figures.accrued.bound.epsilon, rel=1e-6),
        "left": pytest.approx(figures.left, rel=1e-6),
        "holdings": [
            [run, *astuple(mechanism), *astuple(held)]
            for (run, mechanism), held in sorted(tally.allotments.items())
        ],
        "rounds": {
            key: [one.state, one.run, one.round, counts_to_text(one.counts), one.outcome]
            for key, one in tally.rounds.items()
        },
        "causes": tally.causes,
        "signed_heads": {
            coordinator: [
                *(head.sequence, head.head, head.spent, head.runs, head.rebased),
                *(head.seen_sequence, head.seen_head),
            ]
            for coordinator, head in heads.items()
        },
    }


def test_its_answers_are_unchanged(ledger: Ledger, tmp_path: Path) -> None:
    assert ledger.id == EXPECTED["ledger"]
    assert [derived(ledger, account) for account in ledger.accounts()] == EXPECTED["accounts"]
    newest = ledger.reply("a2")
    assert newest == Reply("a2", "22" * 32, b"second reply")
    shutil.copy(WRITTEN / "heads.json", tmp_path)
    Heads(tmp_path).check(ledger)


def test_its_events_are_written_as_they_were(ledger: Ledger) -> None:
    lines = [line for account in ledger.accounts() for line in export.lines(ledger, account.name)]
    assert "".join(f"{line}\n" for line in lines).encode() == EXPORTED


def test_its_export_is_read_into_a_new_ledger(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path / "new.sqlite"), create=True)
    import_events(ledger, EXPORTED.splitlines())
    for account, expected in zip(ledger.accounts(), EXPECTED["accounts"], strict=True):
        figures = derived(ledger, account)
        del figures["signed_heads"]  # another ledger seals other heads
        assert figures.items() <= expected.items()


def test_it_goes_on(ledger: Ledger) -> None:
    account = ledger.account(LETTERS)
    step = ((Mechanism(4.0, 0.02), 4),)
    ledger.commit({"b1": "reply"}, Reply("b1", "44" * 32, b"bytes"))
    ledger.reserve("run-b", 2, {account.id: "b2"}, step)
    ledger.commit({"b2": "no reply"})
    ledger.reserve("run-b", 3, {account.id: "b3"}, step)
    ledger.release("b3", "signed")
    ledger.void_key(LETTERS, "run-b", 4, "b4", EXPECTED["coordinator"])
    assert ledger.allot(LETTERS, "run-c", "ee" * 32, step, EXPECTED["coordinator"]) is not None
    ledger.set_budget(LETTERS, 0.5, "less")
    ledger.rebase(LETTERS, {"run-b": step}, EXPECTED["coordinator"], "restored")
    tally = ledger.verify(ledger.account(LETTERS))
    held = tally.allotments["run-b", Mechanism(4.0, 0.02)]
    assert (held.allotted, held.reserved, held.committed, held.voided) == (44, 0, 12, 32)
    assert tally.sequence > account.sequence
    assert [event.hash for event in ledger.events(LETTERS)][account.sequence - 1] == account.head
