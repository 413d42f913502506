"""What the tables of a policy must say alike, or may not both say."""

import os
from collections.abc import Iterable, Iterator, Mapping

from dpbitfit.faults import Key, dotted, located
from dpbitfit_client.policy.dataset import Dataset, Records

Wrong = tuple[Key, str]  # a key, and what is wrong with it


def refuse(faults: Iterable[Wrong]) -> None:
    """Raise them in a validator, if there are any."""
    if faults := list(faults):
        raise located(*faults)


def repeats(table: str, values: Iterable[tuple[Key, str]], relation: str) -> Iterator[Wrong]:
    """Two names for one key, or for records whose losses would then not add up."""
    first: dict[str, Key] = {}
    for key, value in values:
        if first.setdefault(value, key) != key:
            yield key, f"{relation} {dotted((table, *first[value]))}; use one name for both"


def _tables(datasets: Mapping[str, Dataset]) -> Iterator[tuple[Key, str, Records]]:
    """Every table with records: its key below the data sets, its account, and itself."""
    for name, dataset in datasets.items():
        yield (name,), dataset.account, dataset
        if dataset.evaluation is not None:
            yield (name, "evaluation"), dataset.evaluation_name, dataset.evaluation


def sources(datasets: Mapping[str, Dataset]) -> Iterator[tuple[Key, str]]:
    """Where every record comes from, with the key that says so."""
    for table, _, records in _tables(datasets):
        if records.path:
            yield (*table, "path"), os.path.realpath(records.path)
        else:
            yield (*table, "loader"), records.source


def unlike_parts(datasets: Mapping[str, Dataset]) -> Iterator[Wrong]:
    """Records that share an account, which has one unit, one budget and one delta."""
    first: dict[str, tuple[Key, Records]] = {}
    for table, account, records in _tables(datasets):
        where, other = first.setdefault(account, (table, records))
        for key, field in (("unit-column", "unit"), ("epsilon", "epsilon"), ("delta", "delta")):
            theirs = getattr(other, field)
            if getattr(records, field) != theirs:
                owner = dotted(("datasets", *where))
                text = f"must be that of {owner}, {theirs!r}: they share an account"
                yield (*table, key), text


def foreign_accounts(datasets: Mapping[str, Dataset]) -> Iterator[Wrong]:
    """Accounts with the name of a data set that has another one."""
    for name, dataset in datasets.items():
        owner = datasets.get(dataset.account, dataset)
        if owner.account != dataset.account:
            text = f"{owner.name} has another account: name that account, or another"
            yield (name, "account"), text
