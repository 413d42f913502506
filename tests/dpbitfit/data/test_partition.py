"""Every record goes to one site; a person is never split; no person moves when another comes."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dpbitfit.data.partition import count_at_several, count_units, hold_out, natural_sites, split
from dpbitfit.data.tables import Table
from dpbitfit.errors import InputError

from ...support.tasks import text_table

Row = tuple[str, int, str, str]  # text, label, unit, site
Placed = Counter[tuple[Row, object]]

# Few texts, so that there are equal records.
contents = st.tuples(st.sampled_from("ab"), st.integers(0, 2))
seeds = st.integers(-2, 2**70)


def examples(count: int, people: int = 0) -> Table:
    generator = np.random.default_rng(0)
    units = [f"p{generator.integers(people)}" for _ in range(count)] if people else None
    sites = [f"s{i % 3}" for i in range(count)]
    labels = generator.integers(0, 5, count)
    return text_table([f"t{i}" for i in range(count)], labels, units, sites)


def table(rows: list[Row], units: bool) -> Table:
    texts, labels, people, sites = (list(column) for column in zip(*rows, strict=True))
    return text_table(texts, np.array(labels), people if units else None, sites)


def rows_of(part: Table) -> list[Row]:
    units, sites = part.units or [""] * len(part), part.sites or []
    return list(zip(*part.columns.values(), units, sites, strict=True))


def dealt(whole: Table, skew: float, seed: int) -> Placed:
    """Where each record goes among three sites."""
    parts = split(whole, 3, skew, seed)
    return Counter((row, site) for site, part in enumerate(parts) for row in rows_of(part))


def held_out(whole: Table, seed: int) -> Placed:
    """Whether each record is for the test."""
    try:
        parts = hold_out(whole, 0.4, seed)
    except InputError:
        assume(False)
    return Counter((row, side) for side, part in enumerate(parts) for row in rows_of(part))


@given(
    rows=st.lists(st.tuples(contents, st.sampled_from("xyz")), min_size=3, max_size=12),
    new=st.tuples(contents, st.sampled_from("xyz")),
    at=st.integers(0, 12),
    skew=st.sampled_from([0.0, 1.0, 50.0]),
    seed=seeds,
)
def test_a_record_that_comes_moves_no_other_one(
    rows: list[tuple[tuple[str, int], str]],
    new: tuple[tuple[str, int], str],
    at: int,
    skew: float,
    seed: int,
) -> None:
    before = [(text, label, "", site) for (text, label), site in rows]
    record = (*new[0], "", new[1])
    after = [*before[:at], record, *before[at:]]
    for place in (lambda whole: dealt(whole, skew, seed), lambda whole: held_out(whole, seed)):
        was, now = place(table(before, False)), place(table(after, False))
        assert was <= now
        assert [row for row, _ in (now - was).elements()] == [record]


@given(
    rows=st.lists(st.tuples(contents, st.sampled_from("pqrs")), max_size=12),
    new=st.lists(st.tuples(contents, st.integers(0, 12)), min_size=1, max_size=4),
    skew=st.sampled_from([0.0, 1.0, 50.0]),
    seed=seeds,
)
def test_a_person_who_comes_moves_no_other_one(
    rows: list[tuple[tuple[str, int], str]],
    new: list[tuple[tuple[str, int], int]],
    skew: float,
    seed: int,
) -> None:
    others = [("a", 0, "t", ""), ("a", 1, "u", ""), ("b", 2, "v", "")]
    before = others + [(*content, unit, "") for content, unit in rows]
    after = list(before)
    for content, at in new:
        after.insert(at, (*content, "new", ""))
    for place in (lambda whole: dealt(whole, skew, seed), lambda whole: held_out(whole, seed)):
        was, now = place(table(before, True)), place(table(after, True))
        assert was <= now
        came = (now - was).elements()
        assert {(row[2], where) for row, where in came} == {("new", next(iter(now - was))[1])}


@given(
    rows=st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 2), st.sampled_from("pqrs"), st.just("x")),
        min_size=6,
        max_size=12,
    ),
    units=st.booleans(),
    skew=st.sampled_from([0.0, 1.0, 50.0]),
    seed=seeds,
    data=st.data(),
)
def test_the_order_of_the_rows_makes_no_difference(
    rows: list[Row], units: bool, skew: float, seed: int, data: st.DataObject
) -> None:
    assume(not units or len({row[2] for row in rows}) > 2)
    mixed = data.draw(st.permutations(rows))
    for place in (lambda whole: dealt(whole, skew, seed), lambda whole: held_out(whole, seed)):
        assert place(table(rows, units)) == place(table(mixed, units))


@given(
    count=st.integers(1, 60),
    sites=st.integers(1, 8),
    skew=st.sampled_from([0.0, 0.5, 10.0, 1e6]),
    people=st.sampled_from([0, 12]),
    seed=seeds,
)
def test_every_record_goes_to_one_site_and_no_person_to_two(
    count: int, sites: int, skew: float, people: int, seed: int
) -> None:
    whole = examples(count, people)
    units = count_units(whole)
    if units < sites:
        with pytest.raises(InputError, match="sites"):
            split(whole, sites, skew, seed)
        return
    parts = split(whole, sites, skew, seed)
    assert len(parts) == sites
    assert sorted(text for part in parts for text in part.columns["text"]) == sorted(
        whole.columns["text"]
    )
    if people:
        owners = [set(part.units or []) for part in parts]
        assert sum(map(len, owners)) == units


def test_sites_are_of_about_one_size_with_a_hold_out_and_without() -> None:
    whole = examples(4000)
    train, test = hold_out(whole, 0.25, 3)
    assert len(test) == pytest.approx(1000, abs=110)  # four standard deviations
    for shared in (whole, train):
        for part in split(shared, 4, 0, 3):
            assert len(part) == pytest.approx(len(shared) / 4, abs=110)


def test_skew_skews_and_the_seed_decides() -> None:
    whole = examples(2000)

    def spread(skew: float) -> float:
        parts = split(whole, 4, skew, 1)
        shares = np.array(
            [np.bincount(part.columns["label"], minlength=5) / len(part) for part in parts]
        )
        return float(shares.std(axis=0).mean())

    assert spread(0) < 0.05 < spread(10)
    assert spread(1e-4) < 0.05
    for skew in (0, 10):
        assert dealt(whole, skew, 1) == dealt(whole, skew, 1)
    moved = dealt(whole, 0, 1) - dealt(whole, 0, 2)
    assert moved.total() == pytest.approx(2000 * 2 / 3, abs=90)
    tests = [set(hold_out(whole, 0.25, seed)[1].columns["text"]) for seed in range(4)]
    for one, other in pairwise(tests):
        assert len(one & other) == pytest.approx(2000 / 16, abs=45)


def test_a_persons_most_frequent_label_decides_where_labels_are_skewed() -> None:
    """With all of a label at one site, a person of several labels is with those of one."""
    labels = {"a": [0, 1, 1], "b": [2], "c": [3, 4, 4, 3], "0": [0], "1": [1], "2": [2], "3": [3]}
    units = [unit for unit, result in labels.items() for _ in result]
    whole = text_table(["t"] * len(units), np.concatenate([*labels.values()]), units)
    for seed in range(5):
        parts = split(whole, 4, 1e6, seed)
        site = {unit: at for at, part in enumerate(parts) for unit in part.units or []}
        assert [site["a"], site["b"], site["c"]] == [site["1"], site["2"], site["3"]]


@pytest.mark.parametrize("people", [0, 30])
def test_a_hold_out_shares_no_person_with_the_sites(people: int) -> None:
    whole = examples(200, people)
    train, test = hold_out(whole, 0.25, 3)
    assert sorted([*train.columns["text"], *test.columns["text"]]) == sorted(whole.columns["text"])
    assert 15 < len(test) < 100
    if people:
        assert not set(train.units or []) & set(test.units or [])


def test_natural_sites_are_those_that_the_data_names() -> None:
    whole = examples(10)
    sites = natural_sites(whole, whole.take([]))
    assert list(sites) == ["s0", "s1", "s2"]
    assert [len(part) for part in sites.values()] == [4, 3, 3]
    held_out = natural_sites(whole.take([0, 3, 4]), whole.take([2, 5]))
    assert [len(part) for part in held_out.values()] == [2, 1, 0]
    unnamed = text_table(["a"], np.zeros(1, dtype=np.int64))
    with pytest.raises(InputError, match="names no sites"):
        natural_sites(unnamed, unnamed)


def test_persons_at_several_sites_are_counted() -> None:
    units = ["a", "b", "b", "c", "a"]
    table = Table({"text": units}, units, ["n", "n", "n", "s", "s"])
    sites = list(natural_sites(table, table.take([])).values())
    assert count_at_several(sites) == 1
    assert count_at_several([Table({"text": ["x"]}), Table({"text": ["x"]})]) == 0


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0, float("nan"), 1e-9, 1 - 1e-9])
def test_a_hold_out_of_nothing_or_everything_is_refused(fraction: float) -> None:
    with pytest.raises(InputError, match="fraction"):
        hold_out(examples(20), fraction, 0)


@pytest.mark.parametrize(("sites", "skew"), [(0, 0.0), (2, -1.0), (2, float("nan"))])
def test_sites_and_skews_that_are_none_are_refused(sites: int, skew: float) -> None:
    with pytest.raises(InputError):
        split(examples(20), sites, skew, 0)
