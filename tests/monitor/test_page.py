"""The page: true figures or none, hostile names as text, files that hold what is shown."""

import csv
import io
import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from dpbitfit_monitor import describe
from dpbitfit_monitor.page import urls
from dpbitfit_monitor.reader import LedgerViews
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from dpbitfit.errors import InputError
from dpbitfit.ledger import Account, AccountName, Ledger, schema
from dpbitfit.ledger.export import STATEMENTS
from tests.support.ledgers import DELTA, NAME, OTHER, account, run_rounds, steps

from ..support.monitor_pages import Words, monitor, out, page, stranger, token, token_file, url
from .test_runs import LINE, folder

__all__ = ["monitor", "out", "page", "stranger", "token", "token_file", "url"]

Refined = Callable[[LedgerViews], LedgerViews]
NORTH = urls.account_path(NAME)
SCRIPT = "<script>alert(1)</script>".replace("/", "\\")


def words(client: TestClient, path: str, status: int = 200) -> str:
    answer = client.get(path)
    assert answer.status_code == status, answer.text
    return " ".join(Words(answer.text).text.split())


def table(client: TestClient, path: str) -> list[dict[str, str]]:
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/csv")
    assert "attachment" in answer.headers["content-disposition"]
    return list(csv.DictReader(io.StringIO(answer.text)))


def test_an_overview_says_what_the_reader_says(
    north: Account, south: Account, reader: LedgerViews, refined: Refined, page: TestClient
) -> None:
    view = refined(reader).overview().accounts[0]
    text = words(page, "/")
    for text_part in (
        "north",
        "south",
        f"{view.accrued.bound.epsilon:.3f} of 8",
        f"{view.left:.3f}",
    ):
        assert text_part in text
    assert "≤ 0" not in text
    assert text.index("north") < text.index("south")
    assert "south" not in words(page, "/?q=nor")
    assert "No account matches" in words(page, "/?state=spent")


@pytest.mark.parametrize("path", ["/", NORTH, f"{NORTH}/report", "/runs", "/runs/r1"])
def test_unit_adjacency_delta_accountant_and_limits_stand_on_every_page(
    path: str, north: Account, reader: LedgerViews, refined: Refined, page: TestClient
) -> None:
    view = refined(reader).overview().accounts[0]
    text = words(page, path)
    for text_part in (
        "adding or removing one unit",
        NAME.unit,
        f"{DELTA:g}",
        *STATEMENTS["not_covered"],
    ):
        assert text_part in text
    assert view.accrued.bound.accountant in text
    assert view.accrued.bound.version in text


def test_a_site_from_its_events(
    north: Account, reader: LedgerViews, refined: Refined, page: TestClient
) -> None:
    refined(reader)
    detail = reader.account(NAME)
    text = words(page, NORTH)
    assert detail.view.sentence in text
    assert "All 9 events form one unbroken chain" in text
    assert "refused 1 refusal" in text
    assert "round 3 of one" in text
    for bound in detail.curve:
        assert f"{bound.epsilon:.3f}" in text
    for point in detail.series:
        assert f"{point.bound.epsilon:.3f}" in text
    assert detail.view.head in text
    paper = words(page, f"{NORTH}/report")
    assert detail.view.sentence in paper
    assert STATEMENTS["trust_model"] in paper
    assert reader.overview().ledger in paper


def test_an_audit_shows_decisions_and_the_head_of_the_sites_ledger(
    north: Account, ledger: Ledger, page: TestClient
) -> None:
    assert "The site's ledger has signed no head yet" in words(page, NORTH)
    peer = {"ledger": "b" * 64, "coordinator": "c" * 64, "sequence": 1234, "head": "d" * 64}
    with ledger.database.write() as connection:
        row = {**peer, "account_id": north.id, "spent": "[]", "drift": ""}
        connection.execute(sa.insert(schema.peer).values(**row))
    ledger.set_budget(NAME, 6.5, "agreed with the board")
    for path in (NORTH, f"{NORTH}/report"):
        text = words(page, path)
        audit = text[text.index("Audit") :]
        for text_part in (
            f"The site's ledger {'b' * 64} last signed a head",
            "event 1,234",
            "d" * 64,
        ):
            assert text_part in audit
        decisions = audit[audit.index("Decisions") :]
        assert decisions.index("account opened") < decisions.index("budget changed")
        assert "budget 6.5 delta 0.00001 reason agreed with the board" in decisions
    assert "round requested" not in decisions
    exported = page.get(f"{NORTH}/export.json").json()
    assert [event["kind"] for event in exported["decisions"]] == ["open", "budget"]
    assert exported["witnesses"] == [
        {"ledger": "b" * 64, "sequence": 1234, "head": "d" * 64, "drift": ""}
    ]


def test_events_by_pages_newest_first(ledger: Ledger, page: TestClient) -> None:
    opened = account(ledger)
    ledger.allot(NAME, "one", "plan", steps(100))
    run_rounds(ledger, opened, "one", 60, steps(1))

    def shown(number: object) -> list[int]:
        text = page.get(f"{NORTH}?page={number}").text
        rows = text[text.index('id="events"') :].split('<th scope="row" class="number">')[1:]
        return [int(row.split("<")[0]) for row in rows]

    assert shown(1) == list(range(122, 72, -1))
    assert shown(3) == list(range(22, 0, -1))
    assert shown(99) == shown(3)
    assert shown("-1") == shown("x") == shown("") == shown(1)


def test_a_run_is_followed_until_it_ends(north: Account, page: TestClient, out: Path) -> None:
    answer = page.get("/runs/r1").text
    assert 'data-refresh="2"' in answer
    assert '<noscript><meta http-equiv="refresh"' in answer
    text = words(page, "/runs/r1")
    assert "Round 1 of 3" in text
    assert "1 0.750 – 3.000 0.000 2 0" in text
    folder(out, {**LINE, "secret": "Ms Smith"}, error={"code": "bad-input", "message": "Ms Smith"})
    answer = page.get("/runs/out").text
    assert 'data-refresh="0"' in answer
    assert "http-equiv" not in answer
    assert "bad-input" in answer
    for path in ("/runs", "/runs/out", "/runs/out/export.json", "/runs/r1/export.csv"):
        assert "Smith" not in page.get(path).text


def test_a_round_names_the_sites_that_are_missing(
    north: Account, page: TestClient, out: Path
) -> None:
    missing = {"hospital-2": "no reply in time", SCRIPT: "offline"}
    folder(out, LINE, {**LINE, "round": 1, "missing": missing})
    output = f"hospital-2 (no reply in time), {SCRIPT} (offline)"
    assert output in words(page, "/runs/r1")
    (first, second) = table(page, "/runs/r1/export.csv")
    assert first["missing"] == ""
    assert second["missing"] == f"hospital-2: no reply in time; {SCRIPT}: offline"
    assert page.get("/runs/r1/export.json").json()["rounds"][1]["missing"] == missing


def test_a_metric_that_nothing_here_knows_is_shown_like_any_other(
    north: Account, page: TestClient, out: Path
) -> None:
    first = {**LINE, "metrics": {"perplexity": 41.5}}
    folder(out, first, {**LINE, "round": 1, "metrics": {"perplexity": 12.25, SCRIPT: None}})
    text = words(page, "/runs/r1")
    assert f"Round Phase perplexity {SCRIPT} Guaranteed epsilon" in text
    assert "1 12.250 – 3.000" in text
    assert "0 41.500 – 3.000" in text
    assert "accuracy" not in text
    answer = page.get("/runs/r1").text
    assert "Round 1 of 3, running: perplexity 12.250." in answer
    assert 'aria-label="perplexity on public test records. After round 1: perplexity' in answer
    assert not_ours(Words(answer)) == []
    assert "perplexity 12.250" in words(page, "/runs")
    rounds = page.get("/runs/r1/export.json").json()["rounds"]
    assert rounds[1]["metrics"] == {"perplexity": 12.25, SCRIPT: None}
    row = table(page, "/runs/r1/export.csv")[0]
    assert (row["metrics.perplexity"], row[f"metrics.{SCRIPT}"]) == ("41.5", "")


def test_files_hold_what_is_shown(
    north: Account, south: Account, reader: LedgerViews, refined: Refined, page: TestClient
) -> None:
    overview = refined(reader).overview()
    content = page.get("/export.json").json()
    assert content["accounts"] == [describe.account(view) for view in overview.accounts]
    first, second = table(page, "/export.csv")
    assert (first["site"], second["site"]) == ("north", "south")
    assert float(first["accrued"]) == overview.accounts[0].accrued.bound.epsilon
    assert first["accrued_by"].startswith(overview.accounts[0].accrued.bound.accountant)
    assert (first["adjacency"], first["refusals"]) == ("add or remove one unit", "refused: 1")

    content = page.get(f"{NORTH}/export.json").json()
    assert content["curve"] == describe.detail(reader.account(NAME))["curve"]
    assert content["event_log"] == [vars(event) for event in reader.events(NAME)]
    events = table(page, f"{NORTH}/export.csv")
    assert [int(event["sequence"]) for event in events] == list(range(1, 10))
    assert events[-1]["hash"] == reader.events(NAME)[-1].hash
    assert page.get("/runs/r1/export.json").json()["rounds"][1]["metrics"]["accuracy"] == 0.75
    assert table(page, "/runs/r1/export.csv")[1]["metrics.accuracy"] == "0.75"


def test_a_spreadsheet_runs_nothing(ledger: Ledger, page: TestClient) -> None:
    account(ledger, AccountName("=cmd|' \\C calc'!A0", "@letters", "-1+1"))
    (row,) = table(page, "/export.csv")
    assert (row["site"][:2], row["dataset"], row["unit"]) == ("'=", "'@letters", "'-1+1")


HOSTILE = st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=40).map(
    lambda text: text.replace("/", "\\")
).filter(str.isprintable) | st.sampled_from(
    [SCRIPT, "..", ".", "~1", "' OR 1=1 --", '"><img src=x onerror=alert(1)>', "{{ 7*7 }}"]
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(HOSTILE, HOSTILE)
def test_a_name_is_text_wherever_it_stands(
    ledger: Ledger, page: TestClient, site: str, unit: str
) -> None:
    name = AccountName(site, "letters", unit)
    try:
        account(ledger, name)
    except InputError:
        return  # of a name that the ledger refuses, nothing is shown
    path = urls.account_path(name)
    for shown in (path, f"{path}/report"):
        answer = page.get(shown)
        assert answer.status_code == 200
        shown_page = Words(answer.text)
        assert site in shown_page.text
        assert unit in shown_page.text
        assert not_ours(shown_page) == []
    assert page.get(f"{path}/export.json").json()["site"] == site
    shown_page = Words(page.get("/", params={"q": site, "state": unit, "sort": unit}).text)
    assert not_ours(shown_page) == []
    assert path in [attributes.get("href") for tag, attributes in shown_page.elements if tag == "a"]


def not_ours(shown_page: Words) -> list[tuple[str, dict[str, str | None]]]:
    """Elements that only a name could have brought in."""
    return [
        (tag, attributes)
        for tag, attributes in shown_page.elements
        if (tag == "script" and attributes.get("src") != "/static/page.js")
        or tag in ("img", "iframe", "object", "style")
        or any(key.startswith("on") or key == "style" for key in attributes)
    ]


def test_a_run_is_text_too(page: TestClient, out: Path) -> None:
    for run in (SCRIPT, "../../etc/passwd", "a/b", "\ud800", "\0", "..", "x" * 3000):
        folder(out, {**LINE, "run": run}, report={"final": {"stopped": SCRIPT}})
        listed = Words(page.get("/runs").text)
        (path,) = {
            attributes["href"]
            for tag, attributes in listed.elements
            if tag == "a" and str(attributes.get("href")).startswith("/runs/")
        }
        assert path is not None
        if run != "\ud800":  # it has no address of its own
            answer = page.get(path)
            assert answer.status_code == 200
            assert not_ours(Words(answer.text)) == []
        assert not_ours(listed) == []


@pytest.mark.parametrize(
    "path",
    [
        "/absent",
        "/runs/absent",
        "/runs/..%2f..%2fetc%2fpasswd",
        "/runs/../../../../etc/passwd",
        "/static/../pages.py",
        "/static/..%2fpages.py",
        "/static/%2e%2e/access.py",
        "/accounts/north/letters",
        "/accounts/north/letters/nobody",
        "/accounts/north/letters/nobody/report",
        "/accounts/north/letters/nobody/export.csv",
        "/accounts/%00/letters/person",
        "/accounts/~1/~1/~1",
        "/accounts/north/letters/person/..%2f..",
        "/accounts/%ff/%fe/x",
        "/runs/%ff",
        f"/accounts/{'x' * 3000}/y/z",
    ],
)
def test_what_is_not_there_is_not_found(path: str, north: Account, page: TestClient) -> None:
    answer = page.get(path)
    assert answer.status_code == 404
    for word in ("Traceback", "root:", "import "):
        assert word not in answer.text


def test_a_corrupt_account_has_no_figure(
    north: Account, south: Account, page: TestClient, ledger: Ledger
) -> None:
    with ledger.database.write() as connection:
        event = schema.event
        where = (event.c.account_id == north.id, event.c.sequence == 4)
        body = '{"at": "2020", "run": "<script>"}'
        connection.execute(sa.update(event).where(*where).values(body=body))
    answer = page.get(NORTH)
    text = " ".join(Words(answer.text).text.split())
    assert answer.status_code == 503
    assert "No figure of this account can be given" in text
    assert "The first corrupt event is number 4" in text
    assert "epsilon" not in text.lower()
    assert not_ours(Words(answer.text)) == []
    for path in ("report", "export.json", "export.csv"):
        assert "unreadable or corrupt" in words(page, f"{NORTH}/{path}", 503)
    assert "No figure can be shown" in words(page, "/")  # from the first look on
    rows = table(page, "/export.csv")
    assert [(row["site"], bool(row["accrued"])) for row in rows] == [
        ("south", True),
        ("north", False),
    ]
    with ledger.database.write() as connection:
        connection.execute(sa.update(schema.account).values(budget="much"))
    assert "No event can be read" in words(page, NORTH, 503)


def gone(ledger: Ledger, url: str) -> None:
    os.rename(url, f"{url}.away")


def corrupt(ledger: Ledger, url: str) -> None:
    ledger.database.close()
    for suffix in ("-wal", "-shm"):
        Path(url + suffix).unlink(missing_ok=True)
    Path(url).write_bytes(b"SQLite format 3\0" + os.urandom(8192))


def version(number: str) -> Callable[[Ledger, str], None]:
    def change(ledger: Ledger, _: str) -> None:
        with ledger.database.write() as connection:
            statement = f"UPDATE {schema.VERSION_TABLE} SET version_num = '{number}'"
            connection.exec_driver_sql(statement)

    return change


@pytest.mark.parametrize(
    ("harm", "advice"),
    [
        (gone, "there is no ledger here"),
        (corrupt, "restore a backup"),
        (version("9999"), "upgrade dpbitfit"),
        (version("0001"), "run: dpbitfit ledger migrate"),
    ],
)
def test_a_ledger_that_cannot_be_read_is_reported(
    harm: Callable[[Ledger, str], None],
    advice: str,
    north: Account,
    page: TestClient,
    ledger: Ledger,
    url: str,
) -> None:
    assert "north" in words(page, "/")
    harm(ledger, url)
    for path in ("/", NORTH, f"{NORTH}/report", f"{NORTH}/export.json", "/export.csv"):
        answer = page.get(path)
        text = Words(answer.text).text
        assert answer.status_code == 503
        assert "The ledger cannot be read" in text
        assert advice in text
        assert "no older figure" in text
        assert 'data-refresh="5"' in answer.text
        for word in ("Traceback", "sqlalchemy", "accrued", "of 8"):
            assert word not in answer.text
    text = words(page, "/runs/r1")  # its own files can be read
    assert "Round 1 of 3" in text
    assert "The ledger cannot be read at present" in text


def test_a_ledger_that_is_locked_is_reported_and_comes_back(
    north: Account,
    page: TestClient,
    ledger: Ledger,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dpbitfit_monitor.reader.WAIT_SECONDS", 0.1)
    ledger.database.close()
    holder = sqlite3.connect(url, isolation_level=None)
    holder.execute("PRAGMA locking_mode=EXCLUSIVE")
    holder.execute("PRAGMA journal_mode=DELETE")
    holder.execute("BEGIN EXCLUSIVE")
    assert "another process holds it" in words(page, "/", 503)
    holder.execute("ROLLBACK")
    holder.close()
    assert "north" in words(page, "/")


def test_many_accounts_are_many_pages(ledger: Ledger, page: TestClient) -> None:
    for number in range(120):
        account(ledger, AccountName(f"site-{number:03}", "letters", "person"))
    answer = page.get("/?sort=account&page=2").text
    assert answer.count('role="rowheader"') == 50
    assert "site-050" in answer
    assert "site-100" not in answer
    assert "sort=account&amp;page=3" in answer
    assert len(json.loads(page.get("/export.json").text)["accounts"]) == 120


def test_a_reason_that_is_no_text_is_shown_all_the_same(
    north: Account, ledger: Ledger, page: TestClient
) -> None:
    ledger.set_budget(NAME, 9.0, "\ud800 <b>by the board</b>")
    answer: Any = page.get(NORTH)
    assert answer.status_code == 200
    assert "&lt;b&gt;by the board" in answer.text
    assert page.get(f"{NORTH}/export.csv").status_code == 200
    assert page.get(urls.account_path(OTHER)).status_code == 404
