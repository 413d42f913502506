"""Addresses, lists, charts and words: whatever is put in, something sound comes out."""

import math
from dataclasses import replace
from urllib.parse import unquote

import pytest
from dpbitfit_monitor.page import charts, formatting, pagination, urls
from dpbitfit_monitor.page.pagination import Choice, Page
from dpbitfit_monitor.reader import LedgerViews
from dpbitfit_monitor.runs import RoundView
from dpbitfit_monitor.views import State, UnreadableAccount
from hypothesis import example, given
from hypothesis import strategies as st

from dpbitfit.ledger import Account, AccountName
from dpbitfit.ledger.events import Event

from ..support.monitor_pages import url

__all__ = ["url"]

PIECES = ["~", "~0", "~1", "~2", "/", ".", "..", "%2F", "%", "?", "#", "\\", " ", "é", "<"]
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1) | st.lists(
    st.sampled_from(PIECES), min_size=1
).map("".join)


@given(NAMES)
def test_a_segment_leads_back_to_its_name(name: str) -> None:
    segment = urls.to_segment(name)
    assert urls.from_segment(unquote(segment)) == name
    assert segment not in (".", "..")
    assert not set(segment) & set('/?#\\<>" ')


def test_a_name_that_is_no_text_has_an_address() -> None:
    assert urls.run_path("\ud800") == "/runs/%3F"


@given(st.text(), st.integers(0, 300), st.integers(1, 60))
def test_a_page_is_always_there(requested: str, total: int, size: int) -> None:
    page = Page.select(range(total), requested, size)
    assert 1 <= page.number <= page.pages
    assert len(page.entries) == (page.last - page.first + 1 if total else 0)


@given(st.dictionaries(st.sampled_from(["q", "state", "sort", "page"]), st.text()))
def test_a_choice_has_known_values_only(query: dict[str, str]) -> None:
    choice = Choice.from_query(query)
    assert choice.state in ("", *State)
    assert choice.sort.removeprefix("-") in pagination.SORTS
    assert not set(choice.query(page="2")) & set('<>" ')


def test_accounts_are_found_filtered_and_sorted(
    north: Account, south: Account, reader: LedgerViews
) -> None:
    overview = reader.overview()
    damaged = UnreadableAccount(AccountName("lost", "letters", "person"), "why")
    overview = replace(overview, unreadable=(damaged,))

    def sites(**query: str) -> list[str]:
        return [row.name.site for row in Choice.from_query(query).rows(overview)]

    assert sites() == ["lost", "north", "south"]  # the most severe first
    assert sites(sort="account") == ["lost", "north", "south"]
    assert sites(sort="-account") == ["south", "north", "lost"]
    assert sites(sort="used") == ["south", "north", "lost"]
    for column in pagination.SORTS:
        assert sorted(sites(sort=f"-{column}")) == ["lost", "north", "south"]
    assert sites(q="NORTH") == ["north"]
    assert sites(state="unreadable") == ["lost"]
    assert sites(state="ok", q="person") == ["north", "south"]
    assert sites(q="absent") == []
    assert pagination.counts(overview) == {State.OK: 2, State.UNREADABLE: 1}


VALUES = st.none() | st.floats(-1e15, 1e15)
ROUNDS = st.builds(
    RoundView,
    round=st.integers(-5, 10**6),
    rounds=st.integers(0, 10**6),
    metrics=st.dictionaries(st.sampled_from(["accuracy", "loss", "perplexity"]), VALUES),
    guaranteed=VALUES,
    accrued=VALUES,
    bytes_up=st.integers(-(10**15), 10**15),
    bytes_down=st.integers(0, 10**15),
    replies=st.integers(0, 10**6),
    refused=st.integers(0, 10**6),
    seconds=st.floats(0, 1e15),
)
CLOSE = [RoundView(at, 9, 0, 0, 0, 0, 0.0, {"loss": loss}) for at, loss in enumerate((5e-324, 0.0))]


@example(CLOSE[:1])
@example(CLOSE)
@given(st.lists(ROUNDS, max_size=60, unique_by=lambda line: line.round))
def test_a_chart_stays_in_its_frame(rounds: list[RoundView]) -> None:
    rounds.sort(key=lambda line: line.round)
    for chart in charts.of_run(rounds):
        for line in chart.lines:
            places = [pair.split(",") for piece in line.pieces for pair in piece.split()]
            for x, y in [*line.dots, *((float(x), float(y)) for x, y in places)]:
                assert charts.LEFT - 0.1 <= x <= charts.RIGHT + 0.1
                assert charts.TOP - 0.1 <= y <= charts.BOTTOM + 0.1
        assert len(chart.y_ticks) <= 12
        assert len(chart.x_ticks) <= 24
        assert all(map(math.isfinite, (at for at, _ in (*chart.x_ticks, *chart.y_ticks))))


@pytest.mark.parametrize("body", ["", "[]", "3", "null", "{", "[" * 9999, '{"run": {"a": [1]}}'])
def test_an_event_that_says_nothing_is_still_shown(body: str) -> None:
    line = formatting.event_line(Event(1, "strange", body, "h" * 64), bad=1)
    assert (line.sequence, line.kind, line.is_bad) == (1, "strange", True)


def test_the_first_bad_event_is_found(north: Account, reader: LedgerViews) -> None:
    name = north.name
    events = reader.events(name)
    assert formatting.first_bad(name, events) is None
    events[3] = replace(events[3], body=events[3].body.replace("one", "two"))
    assert formatting.first_bad(name, events) == 4
