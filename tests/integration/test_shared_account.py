"""One person in two data sets of a site: the losses of both add up, at the site and elsewhere."""

from pathlib import Path

import pytest
from dpbitfit_client.guard.guard import Guard
from dpbitfit_client.policy.policy import Policy

from dpbitfit.errors import InputError
from dpbitfit.ledger import AccountName, Ledger
from dpbitfit.protocol.flower import to_arrays

from ..support import plans
from ..support.grids import LocalGrid
from .test_measured import PLAN, coordinator, guard, labels, node, strategy

__all__ = ["coordinator", "labels"]  # fixtures

ACCOUNT = AccountName("north", "people", "record")


def with_two(policy: Path, *accounts: str) -> Policy:
    """The policy with ``messages`` and its twin ``notes``, each with an account, "" for its own."""
    site, result, dataset = policy.read_text().partition("[datasets.messages]\n")
    twin = (result + dataset).replace("datasets.messages", "datasets.notes")
    twin = twin.replace("train.csv", "train-2.csv").replace("kept.csv", "kept-2.csv")
    for name in ("train", "kept"):
        copy = policy.parent / f"{name}-2.csv"
        copy.write_text((policy.parent / f"{name}.csv").read_text())
    both = []
    for text, account in zip((result + dataset, twin), accounts, strict=True):
        key = f'account = "{account}"\n' if account else ""
        both.append(text.replace("declared-size = 100\n", f"declared-size = 100\n{key}"))
    policy.write_text(site + "".join(both))
    return Policy.read(policy)


def run(site: Guard, coordinator: Ledger, labels: Path, dataset: str, rounds: int = 2) -> str:
    """One run on a data set; why it stopped, or was not let in."""
    folder = Path(str(coordinator.database)).parent / dataset
    plan = plans.plan(PLAN, dataset=dataset, noise_multiplier=1.0, rounds=rounds)
    made, start = strategy(coordinator, labels, folder, plan)
    made.start(LocalGrid({1: node(site)}), to_arrays(start))
    return "; ".join(filter(None, [made.stopped, *made.registry.refused.values()]))


def steps(ledger: Ledger, account: AccountName) -> list[int]:
    """Steps that each run has spent of an account, less its evaluations."""
    held = ledger.allotments([ledger.account(account).id])[ledger.account(account).id]
    return sorted(part.committed for part in held.values())


def test_two_data_sets_of_one_account_are_one_account_on_both_sides(
    coordinator: Ledger, labels: Path
) -> None:
    first = guard("north", coordinator, labels)
    first.ledger.database.close()
    file = Path(str(coordinator.database)).parent / "north.toml"
    site = Guard(with_two(file, "people", "people"))
    assert run(site, coordinator, labels, "messages") == ""
    assert run(site, coordinator, labels, "notes", rounds=3) == ""
    assert run(site, coordinator, labels, "messages", rounds=1) == ""
    for ledger in (site.ledger, coordinator):
        assert steps(ledger, ACCOUNT) == [1, 2, 3]
        ledger.verify(ledger.account(ACCOUNT))
        assert steps(ledger, AccountName("north", "people:evaluation", "record")) == [1] * 6
    names = {account.name for account in coordinator.accounts()}
    assert names == {ACCOUNT, AccountName("north", "people:evaluation", "record")}


def test_what_one_data_set_has_spent_the_other_cannot(coordinator: Ledger, labels: Path) -> None:
    """Each costs epsilon 2.9 by itself; the site decides, whatever its coordinator has counted."""
    guard("north", coordinator, labels).ledger.database.close()
    file = Path(str(coordinator.database)).parent / "north.toml"
    file.write_text(file.read_text().replace("epsilon = 8.0\n", "epsilon = 3.4\n"))
    site = Guard(with_two(file, "people", "people"))
    assert run(site, coordinator, labels, "messages") == ""
    assert "refused with the code 'budget'" in run(site, coordinator, labels, "notes")
    assert steps(site.ledger, ACCOUNT) == [2]
    apart = file.with_name("apart.toml")
    apart.write_text(file.read_text().replace('account = "people"\n', "").replace("north", "south"))
    apart.chmod(0o600)
    Ledger(str(file.with_name("south.sqlite")), create=True).database.close()
    other = Guard(Policy.read(apart))
    assert run(other, coordinator, labels, "messages") == ""
    assert run(other, coordinator, labels, "notes") == ""


def test_no_loss_is_forgotten_when_data_sets_are_given_one_account(
    coordinator: Ledger, labels: Path
) -> None:
    site = guard("north", coordinator, labels)
    assert run(site, coordinator, labels, "messages") == ""
    site.ledger.database.close()
    file = Path(str(coordinator.database)).parent / "north.toml"
    before = file.read_text()
    with pytest.raises(InputError, match=r"north/messages/record holds losses that 'people'"):
        Guard(with_two(file, "people", "people"))
    file.write_text(before)
    site = Guard(with_two(file, "", "messages"))  # as the error says
    assert run(site, coordinator, labels, "notes") == ""
    assert steps(site.ledger, AccountName("north", "messages", "record")) == [2, 2]
