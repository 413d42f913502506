"""``dpbitfit ledger`` as its caller sees it: exit code, standard output, standard error."""

import getpass
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa

from dpbitfit.accounting.mechanism import Mechanism
from dpbitfit.cli import main
from dpbitfit.errors import BudgetError
from dpbitfit.ledger import Ledger, peers, schema, status
from dpbitfit.ledger.canonical import counts_to_text
from dpbitfit.ledger.heads import Heads

from ...support.ledgers import (
    DELTA,
    NAME,
    OTHER,
    account,
    adaptive,
    no_bound,
    numbers,
    run_rounds,
    steps,
)

ACCOUNT = str(NAME)


class Said(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Said]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path) -> Ledger:
    """Two accounts; one has a run of 100 steps, two rounds of 10 spent, a third reserved."""
    made = Ledger(str(path), create=True)
    first = account(made)
    account(made, OTHER, budget=2.0)
    made.allot(NAME, "one", "plan", steps(100))
    run_rounds(made, first, "one", 2, steps(10))
    made.reserve("one", 2, {first.id: "open"}, steps(10))
    return made


@pytest.fixture
def run(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setenv("DPBITFIT_LEDGER", str(path))
    monkeypatch.setenv("COLUMNS", "160")

    def call(*words: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["dpbitfit", "ledger", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        message = capsys.readouterr()
        return Said(int(ended.value.code or 0), message.out, message.err)

    return call


def edit(ledger: Ledger, table: sa.Table, **values: Any) -> None:
    with ledger.database.write() as connection:
        connection.execute(sa.update(table).values(**values))


def test_init_makes_a_ledger_and_an_account_once(run: Run, path: Path) -> None:
    assert run("init").code == 0
    first = run("init", ACCOUNT, "--epsilon", "3", "--json").json
    assert first == run("init", ACCOUNT, "--epsilon", "3", "--json").json
    assert first == {"ledger": Ledger(str(path)).id, "account": ACCOUNT}
    assert Ledger(str(path)).account(NAME).budget == 3
    other = run("init", ACCOUNT, "--epsilon", "4")
    assert (other.code, "set-budget" in other.err) == (2, True)
    assert run("init", ACCOUNT).code == 2
    assert run("init", "no-account", "--epsilon", "4").code == 2


@pytest.mark.parametrize(
    "words",
    [
        ("accounts",),
        ("show", ACCOUNT),
        ("set-budget", ACCOUNT, "3", "--reason", "x"),
        ("verify",),
        ("export",),
        ("import", "file"),
        ("migrate",),
        ("settle",),
        ("settle", "--rebase"),
        ("statement", ACCOUNT),
        ("backup", "copy"),
    ],
)
def test_without_a_ledger_nothing_is_made(words: tuple[str, ...], run: Run, path: Path) -> None:
    message = run(*words)
    assert message.code == 4
    assert "ledger init" in message.err
    assert not path.exists()
    path.write_bytes(b"no database at all" * 100)
    message = run(*words)
    assert message.code == 4
    assert "damaged or no ledger" in message.err


def test_accounts_lists_budgets_and_says_which_bound(run: Run, ledger: Ledger) -> None:
    quick = run("accounts", "--quick")
    assert quick.code == 0
    assert ACCOUNT in quick.out
    assert "≤ " in quick.out
    first, second = run("accounts", "--quick", "--json").json
    assert first["guaranteed"]["accountant"] == "RDP (quick)"
    assert (second["account"], second["left"]) == (str(OTHER), 2.0)
    tight, _ = run("accounts", "--json").json
    assert run("accounts", "--tight", "--json").json[0] == tight
    assert tight["guaranteed"]["accountant"] in ("PRV", "PLD", "RDP")
    assert tight["accrued"]["epsilon"] < tight["guaranteed"]["epsilon"]
    assert tight["guaranteed"]["epsilon"] <= first["guaranteed"]["epsilon"]


def test_an_account_over_its_budget_is_still_drawn(run: Run, ledger: Ledger) -> None:
    ledger.set_budget(NAME, 0.01, "withdrawn")
    first, _ = run("accounts", "--json").json
    assert first["left"] == 0
    assert run("accounts").code == 0


def test_show_tells_all_about_an_account(run: Run, ledger: Ledger) -> None:
    output = run("show", ACCOUNT, "--events", "3", "--json").json
    assert [event["sequence"] for event in output["events"]] == [5, 6, 7]
    assert output["chain_head"] == output["events"][-1]["hash"]
    (one,) = output["runs"]
    assert (one["run"], one["rounds_left"]) == ("one", 7)
    assert DELTA in [bound["delta"] for bound in output["curve"]]
    assert 0 < output["accrued"]["epsilon"] < output["guaranteed"]["epsilon"] < output["budget"]
    page = run("show", ACCOUNT)
    assert page.code == 0
    assert "every step that was ever approved" in page.out
    assert run("show", ACCOUNT, "--events", "0", "--json").json["events"] == []
    assert run("show", "north/letters/nobody").code == 2
    assert "SITE/DATASET/UNIT" in run("show", "north").err


def test_what_a_run_is_called_steers_no_terminal(run: Run, ledger: Ledger) -> None:
    ledger.void_rest(NAME, "one")
    ledger.allot(NAME, "\x1b[2J[red]", "plan", steps(5))
    page = run("show", ACCOUNT)
    assert "\x1b" not in page.out
    assert "?[2J[red]" in page.out


def test_set_budget_keeps_the_reason(run: Run, ledger: Ledger) -> None:
    message = run("set-budget", ACCOUNT, "5", "--reason", "the board agreed", "--json")
    output = {"account": ACCOUNT, "before": 8.0, "budget": 5.0}
    assert message.json == {**output, "steps_given_up": []}
    event = ledger.events(NAME)[-1]
    assert json.loads(event.body)["reason"] == f"the board agreed (by {getpass.getuser()})"
    assert run("set-budget", ACCOUNT, "5").code == 2
    assert run("set-budget", ACCOUNT, "5", "--reason", " ").code == 2
    assert run("set-budget", ACCOUNT, "nan", "--reason", "x").code == 2
    assert ledger.account(NAME).budget == 5


def test_a_budget_below_what_was_approved_says_what_is_taken_back(run: Run, ledger: Ledger) -> None:
    message = run("set-budget", ACCOUNT, "0.1", "--reason", "the board")
    assert "budget 8 -> 0.1; more was approved: the 70 steps that are left" in message.out
    assert [event.kind for event in ledger.events(NAME)][-2:] == ["budget", "void"]
    assert "the board" in run("show", ACCOUNT).out
    again = run("set-budget", ACCOUNT, "9", "--reason", "the board", "--json")
    assert again.json["steps_given_up"] == []
    assert ledger.runs(ledger.account(NAME))[0].left == ()


def test_of_an_adaptive_account_nothing_but_the_promise_is_called_a_bound(
    run: Run, path: Path
) -> None:
    of = adaptive(Ledger(str(path), create=True))
    for words in (("accounts", "--quick", "--json"), ("accounts", "--json"), ("verify", "--json")):
        (one,) = run(*words).json
        assert one["guaranteed"]["epsilon"] == of.budget
        assert one["accrued"]["basis"].startswith(status.INFORMATIVE)
        assert no_bound() not in numbers(one)
    shown = run("show", ACCOUNT, "--json").json
    report = run("export", ACCOUNT, "--report").json
    assert report["epsilon"] == of.budget
    for output in (shown, report):
        assert of.budget in [bound["epsilon"] for bound in output["curve"]]
        assert no_bound() not in numbers(output)
    for words in (("accounts",), ("show", ACCOUNT), ("verify",)):
        page = " ".join(run(*words).out.split())
        assert f"{of.budget:.3f}" in page
        assert f"{no_bound():.3f}" not in page
        assert status.INFORMATIVE in page or words == ("verify",)


def test_no_command_prints_what_only_a_programmer_reads(
    run: Run, ledger: Ledger, tmp_path: Path
) -> None:
    """No dictionary, tuple or class of ours in any text, whether it ends well or ill."""
    exported = tmp_path / "events.jsonl"
    run("export", "--out", str(exported))
    message = [
        run(*command)
        for command in (
            ("init", ACCOUNT, "--epsilon", "8"),
            ("accounts",),
            ("show", ACCOUNT),
            ("set-budget", ACCOUNT, "7", "--reason", "x"),
            ("verify",),
            ("import", str(exported)),
            ("migrate",),
            ("settle", "--void", "one"),
        )
    ]
    with ledger.database.write() as connection:
        connection.execute(sa.update(schema.allotment).values(committed=9, adaptive=1))
    broken = run("verify")
    message.append(broken)
    assert broken.code == 4
    assert "steps spent: 30" in broken.err
    assert "steps spent: 9" in broken.err
    for one in message:
        for sign in ("{", "}", "(<", "=Decimal", "Mechanism(", "Allotment(", "('", "None", "Name("):
            assert sign not in one.out + one.err


def test_verify_says_what_was_compared(run: Run, ledger: Ledger) -> None:
    out = " ".join(run("verify").out.split())
    assert f"{ACCOUNT}: 7 events in one chain" in out
    assert "1 runs, 3 rounds" in out
    assert f"{OTHER}: 1 events" in out


def test_verify_passes_and_counts(run: Run, ledger: Ledger) -> None:
    assert "2 accounts, 8 events" in run("verify").out
    run("accounts", "--tight")
    (one,) = run("verify", ACCOUNT, "--json").json
    assert one["verified"]
    assert one["chain_head"] == ledger.account(NAME).head


@pytest.mark.parametrize(
    ("table", "values", "message"),
    [
        (schema.event, {"hash": "0" * 64}, "event 1"),
        (schema.account, {"budget": "80"}, "budget of 80"),
        (schema.allotment, {"committed": 0}, "run one"),
        (schema.reservation, {"state": "released"}, "round"),
        (schema.figure, {"epsilon": 0.01}, "an epsilon of 0.0100"),
        (schema.event, {"account_id": 77}, "its row is gone"),
    ],
)
def test_verify_names_the_first_bad_row(
    table: sa.Table, values: dict[str, Any], message: str, run: Run, ledger: Ledger
) -> None:
    run("accounts", "--tight")
    with ledger.database.write() as connection:
        chosen = sa.update(table).values(**values)
        if "account_id" in values:
            connection.exec_driver_sql("PRAGMA defer_foreign_keys=ON")
            chosen = chosen.where(table.c.account_id == ledger.account(OTHER).id)
            connection.execute(sa.insert(schema.account).values(_lost(77)))
        connection.execute(chosen)
    if "account_id" in values:
        _delete_unchecked(ledger, 77)
    result = run("verify")
    assert result.code == 4
    assert message in result.err
    assert not result.out


def _lost(number: int) -> dict[str, Any]:
    name = {"site": "lost", "dataset": "lost", "unit": "lost", "delta": "0.1", "budget": "1"}
    return {"id": number, **name, "filter_order": 0, "sequence": 0, "head": ""}


def _delete_unchecked(ledger: Ledger, number: int) -> None:
    import sqlite3

    with sqlite3.connect(str(ledger.database.url.database)) as connection:
        connection.execute("DELETE FROM account WHERE id = ?", (number,))


def test_export_and_import(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    exported = run("export").out.splitlines()
    assert len(exported) == 8
    assert {*json.loads(exported[0])} == {"account", "sequence", "kind", "body", "hash"}
    assert len(run("export", str(OTHER)).out.splitlines()) == 1
    out, copy = tmp_path / "events.jsonl", str(tmp_path / "copy.sqlite")
    assert run("export", "--out", str(out)).code == 0
    assert out.read_text().splitlines() == exported
    assert run("init", "--ledger", copy).code == 0
    output = run("import", str(out), "--ledger", copy, "--json").json
    assert [one["added"] for one in output] == [7, 1]
    assert output[0]["chain_head"] == ledger.account(NAME).head
    assert run("verify", "--ledger", copy).code == 0
    assert "0 new events" in run("import", str(out), "--ledger", copy).out
    out.write_text("\n".join([*exported[:2], "{}"]))
    damaged = run("import", str(out), "--ledger", copy)
    assert damaged.code == 4
    assert "line 3" in damaged.err
    assert run("import", str(tmp_path / "absent"), "--ledger", copy).code == 2
    assert run("export", "--out", str(tmp_path / "absent" / "file")).code == 2


def test_export_reports(run: Run, ledger: Ledger) -> None:
    one = run("export", ACCOUNT, "--report").json
    assert (one["unit"], one["audit_evidence"]["events"]) == ("person", 7)
    both = run("export", "--report").json
    assert [report["account"]["site"] for report in both] == ["north", "south"]


def test_migrate_refuses_a_newer_ledger(run: Run, ledger: Ledger) -> None:
    assert run("migrate", "--json").json == {"tables": schema.REVISION}
    with ledger.database.write() as connection:
        connection.exec_driver_sql(f"UPDATE {schema.VERSION_TABLE} SET version_num = '9999'")
    message = run("migrate")
    assert message.code == 4
    assert "upgrade dpbitfit" in message.err


def test_settle_counts_what_is_reserved_as_spent(run: Run, ledger: Ledger) -> None:
    with ledger.claim():
        assert run("settle").code == 4
    assert ledger.reservations()
    assert run("settle", str(OTHER), "--json").json == []
    (one,) = run("settle", "--json").json
    assert one == {
        "account": ACCOUNT,
        "rounds_committed": 1,
        "steps_given_up": [],
        "steps_taken_over": [],
        "rebased": False,
        "runs": [],
    }
    assert not ledger.reservations()
    assert "nothing to settle" in run("settle").out


def test_settle_gives_up_the_rest_of_a_run(run: Run, ledger: Ledger) -> None:
    assert "steps given up: 70" in run("settle", ACCOUNT, "--void", "one").out
    assert run("verify").code == 0


def test_settle_takes_over_higher_counts(run: Run, ledger: Ledger) -> None:
    one = ledger.account(OTHER)
    peer = {"ledger": "b" * 64, "coordinator": "b" * 64, "sequence": 9, "head": "d" * 64}
    drift = {"drift": "a backup was restored", "wanted": 1}
    output = {**peer, **drift, "spent": counts_to_text(steps(30))}
    with ledger.database.write() as connection:
        connection.execute(sa.insert(schema.peer).values(account_id=one.id, **output))
    message = run("settle", "--rebase")
    assert (message.code, "ledger settle --rebase --from FILE" in message.err) == (4, True)
    with ledger.database.write() as connection:
        counts = peers.runs_to_text({"old": steps(20), "new": steps(10)})
        connection.execute(sa.update(schema.peer).values(runs=counts))
    message = run("settle", "--rebase", "--reason", "disk was lost")
    assert "steps taken over: 30" in message.out
    assert "run old of coordinator bbbbbbbbbbbb: 20 steps taken over" in message.out
    assert "run new of coordinator bbbbbbbbbbbb: 10 steps taken over" in message.out
    assert "disk was lost" in ledger.events(OTHER)[-1].body
    assert run("verify").code == 0
    assert "nothing to settle" in run("settle", "--rebase").out


def test_settle_takes_over_what_the_other_side_has_stated(run: Run, tmp_path: Path) -> None:
    """Two sides; the one is restored, and the other one hands over what it holds."""
    paths = {name: str(tmp_path / f"{name}.sqlite") for name in ("office", "site")}
    books = {name: Ledger(path, create=True) for name, path in paths.items()}
    office = books["office"].id
    for side, rounds in ((books["office"], 3), (books["site"], 1)):
        of = account(side)
        side.allot(NAME, "one", "plan", steps(100), office)
        run_rounds(side, of, "one", rounds, steps(10))
    out = tmp_path / "statement"
    assert run("statement", "north", "--ledger", paths["office"], "--out", str(out)).code == 0
    to_site = ("settle", "--rebase", "--from", str(out), "--ledger", paths["site"])
    message = run(*to_site, "--reason", "agreed by telephone")
    assert f"run one of coordinator {office[:12]}: 20 steps taken over" in message.out
    assert "until the other side has run" in message.out
    assert "agreed by telephone" in books["site"].events(NAME)[-1].body
    assert run("statement", "north", "--ledger", paths["site"], "--out", str(out)).code == 0
    to_office = ("settle", "--rebase", "--from", str(out), "--ledger", paths["office"], "--json")
    (one,) = run(*to_office).json
    assert (one["rebased"], one["runs"]) == (True, [])
    for path in paths.values():
        assert run("verify", "--ledger", path).code == 0
    assert run("settle", "--from", str(out)).code == 2
    assert run("statement", "nowhere", "--ledger", paths["site"]).code == 2


def test_settle_takes_over_what_was_kept_beside_the_ledger(
    run: Run, ledger: Ledger, path: Path, tmp_path: Path
) -> None:
    Heads(tmp_path / "state").write(ledger)
    ledger.database.close()
    path.unlink()
    assert run("init").code == 0
    state = ("--state-directory", str(tmp_path / "state"))
    assert run("settle", "--rebase", ACCOUNT, *state).code == 2
    assert "run one: 30 steps taken over" in run("settle", "--rebase", *state).out
    assert run("verify").code == 0
    again = Ledger(str(path))
    Heads(tmp_path / "state").check(again)
    assert again.account(OTHER).budget == 2.0
    assert "nothing to settle" in run("settle", "--rebase", *state).out


@pytest.mark.parametrize(("epsilon", "delta"), [(0.1, 1e-9), (1.0, 1e-5), (8.0, 1e-5), (300, 0.01)])
def test_nothing_fits_an_account_whose_ledger_is_lost(
    epsilon: float, delta: float, run: Run, path: Path
) -> None:
    words = ("init", ACCOUNT, "--epsilon", str(epsilon), "--delta", str(delta), "--lost")
    assert run(*words).code == 2  # without a reason
    assert run("init", "--lost", "--reason", "x").code == 2
    assert not path.exists()
    assert run(*words, "--reason", "burnt").code == 0
    made = Ledger(str(path))
    assert "burnt" in made.events(NAME)[-1].body
    least = steps(1, Mechanism(1e6, 1e-9))
    with pytest.raises(BudgetError):
        made.allot(NAME, "next", "plan", least)
    made.set_budget(NAME, 3 * epsilon, "the data controller")
    assert made.allot(NAME, "next", "plan", least) is not None
    assert run("verify").code == 0


def test_an_account_whose_ledger_is_lost_is_never_there_unspent(
    run: Run, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a guard that starts meanwhile, or after an interrupt, would spend the budget again."""

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    words = ("init", ACCOUNT, "--epsilon", "8", "--lost", "--reason", "burnt")
    with monkeypatch.context() as broken:
        broken.setattr("dpbitfit.accounting.composition.epsilon", interrupted)
        assert run(*words).code
        assert not path.exists()
    with monkeypatch.context() as broken:
        broken.setattr("dpbitfit.ledger.rebasing.rebase", interrupted)
        assert run(*words).code
        assert Ledger(str(path)).accounts() == []
    assert run(*words).code == 0
    assert [event.kind for event in Ledger(str(path)).events(NAME)] == ["open", "rebase"]


def test_each_loss_that_is_declared_is_counted(run: Run, ledger: Ledger) -> None:
    """Also of an account that is there, and of one that has lost its ledger before."""
    words = ("init", ACCOUNT, "--epsilon", str(ledger.account(NAME).budget), "--lost")
    before = ledger.account(NAME).sequence
    for number in (1, 2):
        assert run(*words, "--reason", f"fire {number}").code == 0
        events = ledger.events(NAME, after=before)
        assert sum(event.kind == "rebase" for event in events) == number


def test_what_an_operator_mistypes_is_an_error(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    for words in (
        ("settle", "--void", "no-such-run"),
        ("settle", "--rebase", "--state-directory", str(tmp_path / "none")),
        ("export", "--out", str(tmp_path)),
        ("backup", str(tmp_path)),
        ("show", ACCOUNT, "--events", "1" + 23 * "0"),
        ("statement", ACCOUNT),
        ("init", "--ledger", "sqlite://"),
    ):
        message = run(*words)
        assert (message.code, bool(message.err)) == (2, True), words


def test_backup_copies_a_ledger_that_is_at_work(
    run: Run, ledger: Ledger, path: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.sqlite"
    with ledger.claim():
        assert run("backup", str(copy)).code == 0
    assert copy.stat().st_mode & 0o777 == 0o600
    assert {file.name for file in tmp_path.glob("copy*")} == {"copy.sqlite"}
    other = Ledger(str(copy), readonly=True)
    assert (other.id, other.events(NAME)) == (ledger.id, ledger.events(NAME))
    other.database.close()
    before = copy.read_bytes()
    assert run("backup", str(copy)).code == 2
    assert run("backup", str(tmp_path / "absent" / "copy")).code == 2
    assert copy.read_bytes() == before
    edit(ledger, schema.account, budget="80")
    assert run("backup", str(tmp_path / "damaged")).code == 4
    assert not [*tmp_path.glob("damaged*")]
