"""Events as text: what is written reads back the same, and no change goes unnoticed."""

import hashlib
import json
import re
from dataclasses import FrozenInstanceError, replace
from datetime import UTC
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpbitfit.accounting.mechanism import Counts, Mechanism
from dpbitfit.errors import LedgerError
from dpbitfit.ledger.account import AccountName
from dpbitfit.ledger.canonical import counts_from_text, counts_to_text, number_to_text
from dpbitfit.ledger.encoding import read, write
from dpbitfit.ledger.events import (
    CONTENTS,
    GENESIS,
    AccountOpened,
    BudgetSet,
    Content,
    CountsRaised,
    Entry,
    Event,
    KeyVoided,
    PlanApproved,
    RoundCommitted,
    RoundReleased,
    RoundReserved,
    StepsVoided,
)
from dpbitfit.ledger.fold import replay

NAME = AccountName("north", "letters", "patient")
AT = "2026-01-01T00:00:00+00:00"

mechanisms = st.builds(
    Mechanism,
    st.floats(1e-2, 1e6),
    st.floats(1e-9, 1.0),
)
bags = st.dictionaries(mechanisms, st.integers(1, 10**8), max_size=5).map(
    lambda counts: tuple(sorted(counts.items()))
)


def _hash(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()


def spelled(
    name: AccountName, sequence: int, previous: str, kind: str, at: str, **facts: Any
) -> Event:
    """An event in the spelling that every version has stored and hashed."""
    body = json.dumps(
        {
            "account": list(name),
            "sequence": sequence,
            "previous": previous,
            "kind": kind,
            "at": at,
            **facts,
        },
        sort_keys=True,
        separators=(",", ":"),
    )
    return Event(sequence, kind, body, _hash(body))


def triples(counts: Counts) -> list[list[Any]]:
    """Counts in that spelling."""
    return [
        [number_to_text(m.noise_multiplier), number_to_text(m.sampling_rate), n] for m, n in counts
    ]


def chain() -> list[Event]:
    """Every kind of event, on one account."""
    ten = [["4", "0.01", 10]]
    story: list[tuple[str, dict[str, Any]]] = [
        ("open", {"delta": "0.00001", "budget": "8"}),
        ("budget", {"delta": "0.00001", "budget": "4", "reason": "less"}),
        (
            "allot",
            {
                "run": "run",
                "plan": "plan",
                "coordinator": "c",
                "counts": [["4", "0.01", 50]],
                "adaptive": False,
                "order": 8,
            },
        ),
        ("reserve", {"run": "run", "round": 1, "key": "k1", "counts": ten}),
        ("reserve", {"run": "run", "round": 2, "key": "k2", "counts": ten}),
        ("commit", {"key": "k1", "outcome": "replied"}),
        ("release", {"key": "k2", "outcome": "untouched", "proof": "signed"}),
        ("void", {"run": "run", "round": 3, "key": "k3"}),
        ("void", {"run": "run", "counts": [["4", "0.01", 40]]}),
        (
            "rebase",
            {"run": "rebased-c", "coordinator": "c", "counts": ten, "reason": "why", "order": 8},
        ),
    ]
    events: list[Event] = []
    for number, (kind, facts) in enumerate(story, 1):
        previous = events[-1].hash if events else GENESIS
        events.append(spelled(NAME, number, previous, kind, AT, **facts))
    return events


CHAIN = chain()


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_is_plain_decimal_and_reads_back_the_same(value: float) -> None:
    text = number_to_text(value)
    assert re.fullmatch(r"-?\d+(\.\d+)?", text)
    assert float(text) == value
    assert number_to_text(float(text)) == text


@given(bags)
def test_counts_read_back_the_same(bag: Counts) -> None:
    text = counts_to_text(bag)
    assert counts_from_text(text) == bag
    assert counts_to_text(dict(reversed(bag))) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ten",
        "null",
        "[1]",
        '[["4","0.01"]]',
        '[["4","0.01",-1]]',
        '[["4","0.01",0]]',
        '[["4","0.01",1.5]]',
        '[["4","0.01","1"]]',
        '[["4","0.01",true]]',
        '[["4","0.01",1e999]]',
        '[["4","0.01",100000001]]',
        '[["4.0","0.01",1]]',
        "[[4,0.01,1]]",
        '[["0","0.01",1]]',
        '[["nan","0.01",1]]',
        '[["4","2",1]]',
        '[["4","0.01",1],["4","0.01",1]]',
        '[["4","0.01",1],["3","0.01",1]]',
        '[["4","0.01", 1]]',
        "[" * 100_000,
    ],
)
def test_any_other_text_of_counts_is_refused(text: str) -> None:
    with pytest.raises(LedgerError):
        counts_from_text(text)


def test_a_chain_adds_up() -> None:
    state = replay(NAME, CHAIN)
    assert (state.sequence, state.head, state.budget, state.filter_order) == (
        len(CHAIN),
        CHAIN[-1].hash,
        4.0,
        8,
    )
    held = state.allotments["run", Mechanism(4.0, 0.01)]
    assert (held.allotted, held.reserved, held.committed, held.voided) == (50, 0, 10, 40)
    assert {key: each.state for key, each in state.rounds.items()} == {
        "k1": "committed",
        "k2": "released",
        "k3": "void",
    }


@settings(max_examples=300)
@given(st.sampled_from(range(len(CHAIN))), st.data())
def test_any_changed_character_is_noticed_at_its_event(number: int, data: st.DataObject) -> None:
    body = CHAIN[number].body
    place = data.draw(st.integers(0, len(body) - 1))
    other = data.draw(st.characters(codec="ascii").filter(lambda char: char != body[place]))
    damaged = replace(CHAIN[number], body=body[:place] + other + body[place + 1 :])
    with pytest.raises(LedgerError, match=f"event {number + 1}:"):
        replay(NAME, [*CHAIN[:number], damaged, *CHAIN[number + 1 :]])


@settings(max_examples=300)
@given(st.sampled_from(range(len(CHAIN) - 1)), st.data())
def test_a_change_with_its_own_hash_made_anew_is_noticed(number: int, data: st.DataObject) -> None:
    body = json.loads(CHAIN[number].body)
    name = data.draw(st.sampled_from(sorted(body)))
    output = {key: value for key, value in body.items() if key != name}
    output[name] = data.draw(st.integers() | st.text(max_size=8))
    text = json.dumps(output, sort_keys=True, separators=(",", ":"))
    if text == CHAIN[number].body:
        return
    damaged = replace(CHAIN[number], body=text, hash=_hash(text))
    with pytest.raises(LedgerError, match=f"event ({number + 1}|{number + 2}):"):
        replay(NAME, [*CHAIN[:number], damaged, *CHAIN[number + 1 :]])


@given(st.permutations(CHAIN).filter(lambda events: events != CHAIN))
def test_any_other_order_is_noticed(events: list[Event]) -> None:
    with pytest.raises(LedgerError, match="should stand here"):
        replay(NAME, events)


@given(st.sets(st.sampled_from(range(len(CHAIN))), min_size=1))
def test_any_removal_is_noticed_or_shows_in_the_head(gone: set[int]) -> None:
    left = [event for number, event in enumerate(CHAIN) if number not in gone]
    if gone == set(range(len(left), len(CHAIN))):  # from the end: the account's row keeps the head
        assert replay(NAME, left).head != CHAIN[-1].hash
    else:
        with pytest.raises(LedgerError, match=f"event {min(gone) + 1} should stand here"):
            replay(NAME, left)


@pytest.mark.parametrize("number", range(len(CHAIN)))
def test_an_event_of_another_account_is_noticed(number: int) -> None:
    previous = CHAIN[number - 1].hash if number else GENESIS
    body = json.loads(CHAIN[number].body)
    for own in ("account", "sequence", "previous", "kind", "at"):
        body.pop(own)
    south = NAME._replace(site="south")
    other = spelled(south, number + 1, previous, CHAIN[number].kind, AT, **body)
    with pytest.raises(LedgerError, match=f"event {number + 1}: its columns"):
        replay(NAME, [*CHAIN[:number], other])


@pytest.mark.parametrize(
    ("kind", "facts"),
    [
        ("reserve", {"run": "run", "round": 3, "key": "k4", "counts": [["4", "0.01", 51]]}),
        ("reserve", {"run": "run", "round": 3, "key": "k1", "counts": [["4", "0.01", 1]]}),
        ("reserve", {"run": "other", "round": 3, "key": "k4", "counts": [["4", "0.01", 1]]}),
        ("void", {"run": "run", "counts": [["4", "0.01", 51]]}),
        ("commit", {"key": "unknown", "outcome": "replied"}),
        ("release", {"key": "k9", "outcome": "untouched", "proof": ""}),
        ("gift", {"run": "run"}),
        ("open", {}),
    ],
)
def test_a_well_chained_event_that_cannot_have_happened_is_refused(
    kind: str, facts: dict[str, object]
) -> None:
    past = CHAIN[:4]
    impossible = spelled(NAME, 5, past[-1].hash, kind, AT, **facts)
    with pytest.raises(LedgerError, match=r"event 5: its content cannot be read \(\w"):
        replay(NAME, [*past, impossible])


def test_a_round_is_settled_once() -> None:
    again = spelled(NAME, 7, CHAIN[5].hash, "release", AT, key="k1", outcome="untouched", proof="")
    with pytest.raises(LedgerError, match="event 7"):
        replay(NAME, [*CHAIN[:6], again])


texts = st.text(max_size=20)
numbers = st.floats(allow_nan=False, allow_infinity=False)
rounds = st.integers(0, 10**6)
contents: st.SearchStrategy[Content] = st.one_of(
    st.builds(AccountOpened, numbers, numbers),
    st.builds(BudgetSet, numbers, numbers, texts),
    st.builds(PlanApproved, texts, texts, texts, bags, st.booleans(), rounds),
    st.builds(RoundReserved, texts, rounds, texts, bags),
    st.builds(RoundCommitted, texts, texts),
    st.builds(RoundReleased, texts, texts, texts),
    st.builds(KeyVoided, texts, rounds, texts, st.none() | texts),
    st.builds(StepsVoided, texts, bags, st.none() | texts),
    st.builds(CountsRaised, texts, texts, bags, texts, rounds, st.none() | bags),
)
entries = st.builds(
    Entry,
    st.builds(AccountName, texts, texts, texts),
    st.integers(1, 10**9),
    texts,
    st.datetimes(timezones=st.just(UTC)).map(lambda at: at.replace(microsecond=0)),
    contents,
)
KINDS = {
    AccountOpened: "open",
    BudgetSet: "budget",
    PlanApproved: "allot",
    RoundReserved: "reserve",
    RoundCommitted: "commit",
    RoundReleased: "release",
    KeyVoided: "void",
    StepsVoided: "void",
    CountsRaised: "rebase",
}


def in_the_old_spelling(value: Any) -> Any:
    if isinstance(value, float):
        return number_to_text(value)
    return triples(value) if isinstance(value, tuple) else value


def test_every_kind_of_event_is_tried() -> None:
    assert set(CONTENTS) == set(KINDS)


@settings(max_examples=500)
@given(entries)
def test_an_event_is_spelled_as_ever_and_reads_back_the_same(entry: Entry) -> None:
    facts = {
        name: in_the_old_spelling(value)
        for name, value in vars(entry.content).items()
        if value is not None
    }
    at = entry.at.isoformat(timespec="seconds")
    kind = KINDS[type(entry.content)]
    event = write(entry)
    assert event == spelled(entry.account, entry.sequence, entry.previous, kind, at, **facts)
    assert read(event) == entry


def test_every_event_of_the_chain_reads_back_the_same() -> None:
    assert [write(read(event)) for event in CHAIN] == CHAIN
    with pytest.raises(FrozenInstanceError):
        read(CHAIN[0]).content.kind = "gift"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("kind", "facts", "problem"),
    [
        ("gift", {"run": "run"}, "of the unknown kind 'gift'"),
        (["open"], {}, "unhashable"),
        ("commit", {"key": "k1", "outcome": "reply", "by": "me"}, "an unknown field 'by'"),
        ("commit", {"key": "k1"}, "no field 'outcome'"),
        ("void", {"run": "run", "key": "k1", "round": 1, "reason": "x"}, "unknown field 'reason'"),
        ("void", {"run": "run"}, "no field 'counts'"),
        ("void", {"run": "run", "counts": [["4", "0.01", 1]], "reason": None}, "is no str"),
        ("reserve", {"run": "r", "round": True, "key": "k", "counts": []}, "True is no int"),
        ("reserve", {"run": "r", "round": 1.0, "key": "k", "counts": []}, "1.0 is no int"),
        ("reserve", {"run": "r", "round": 1, "key": 7, "counts": []}, "7 is no str"),
        ("open", {"delta": 1e-05, "budget": "8"}, "is not the text of a number"),
        ("open", {"delta": "1e-05", "budget": "8"}, "is not the canonical text of a number"),
        ("open", {"delta": "0.00001", "budget": "inf"}, "is not the canonical text of a number"),
        ("open", {"delta": "0.00001", "budget": "8.0"}, "is not the canonical text of a number"),
    ],
)
def test_an_unknown_kind_or_field_or_type_is_refused_by_name(
    kind: str, facts: dict[str, Any], problem: str
) -> None:
    with pytest.raises(LedgerError, match=re.escape(problem)):
        read(spelled(NAME, 1, GENESIS, kind, AT, **facts))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (AT, "2026-01-01T00:00:00"),
        (AT, "2026-01-01 00:00:00+00:00"),
        (AT, "yesterday"),
        ('"key":"k1"', '"key": "k1"'),
        ('"key":"k1"', '"key":"k0","key":"k1"'),
        ('"key":"k1"', '"key":"k\\u0031"'),
        ('["north",', '["north","x",'),
        ('"previous"', '"Previous"'),
    ],
)
def test_any_other_spelling_is_refused(old: str, new: str) -> None:
    body = CHAIN[5].body.replace(old, new)
    assert body != CHAIN[5].body
    with pytest.raises(LedgerError, match="event 6: its content cannot be read"):
        read(replace(CHAIN[5], body=body, hash=_hash(body)))
