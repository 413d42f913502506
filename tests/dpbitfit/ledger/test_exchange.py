"""Two ledgers that speak of one account: what each notices of the other, and how it ends."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from dpbitfit.accounting import Counts, Mechanism
from dpbitfit.errors import LedgerError, ProtocolError
from dpbitfit.ledger import Account, Ledger, Name, exchange
from dpbitfit.ledger.exchange import Position

NAME = Name("site-1", "records", "record")
STEP = Mechanism(2.0, 0.1)
ROUND: Counts = ((STEP, 2),)


class Side:
    """One ledger in a file of its own, which can be copied and put back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.open()

    def open(self) -> None:
        self.ledger = Ledger(str(self.path), create=True)
        self.account: Account = self.ledger.open_account(NAME, 1e-5, 8.0)

    def back_up(self) -> Path:
        self.ledger.database.close()
        copy = self.path.with_suffix(".copy")
        shutil.copy(self.path, copy)
        self.open()
        return copy

    def restore(self, copy: Path) -> None:
        self.ledger.database.close()
        for suffix in ("-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)
        shutil.copy(copy, self.path)
        self.open()

    def spend(self, run: str, number: int, coordinator: str) -> None:
        self.ledger.allot(NAME, run, "plan", ((STEP, 20),), coordinator)
        key = f"key-of-{run}-{number}"
        self.ledger.reserve(run, number, {self.account.id: key}, ROUND)
        self.ledger.commit({key: "reply"})

    def spent(self) -> int:
        held = self.ledger.holdings([self.account.id])[self.account.id].values()
        return sum(one.reserved + one.committed for one in held)


class Pair:
    """A coordinator and a site, and one round between them."""

    def __init__(self, folder: Path) -> None:
        self.coordinator, self.site = Side(folder / "c.sqlite"), Side(folder / "s.sqlite")

    @property
    def id(self) -> str:
        return self.coordinator.ledger.id

    def from_coordinator(self) -> Position:
        to = self.site.ledger.id
        side = self.coordinator
        return exchange.position(side.ledger, side.account, self.id, to, "")

    def from_site(self) -> Position:
        return exchange.position(self.site.ledger, self.site.account, self.id, self.id, "")

    def round(self, number: int) -> None:
        self.coordinator.spend("run", number, self.id)
        exchange.check(self.site.ledger, self.site.account, self.from_coordinator(), self.id, ROUND)
        self.site.spend("run", number, self.id)
        exchange.check(self.coordinator.ledger, self.coordinator.account, self.from_site(), self.id)


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def test_two_honest_ledgers_agree_round_after_round(pair: Pair) -> None:
    for number in range(1, 6):
        pair.round(number)
    assert pair.coordinator.spent() == pair.site.spent() == 10


def test_a_lost_round_at_the_site_is_no_drift(pair: Pair) -> None:
    pair.coordinator.spend("run", 1, pair.id)  # the message never arrived
    pair.round(2)
    assert (pair.coordinator.spent(), pair.site.spent()) == (4, 2)


def test_a_restored_backup_of_the_coordinator_is_noticed_and_settled_upwards(pair: Pair) -> None:
    pair.round(1)
    copy = pair.coordinator.back_up()
    pair.round(2)
    pair.round(3)
    pair.coordinator.restore(copy)
    with pytest.raises(LedgerError, match="backup was restored"):
        pair.round(4)
    assert pair.site.spent() == 6
    # It hears from the site, stands still, and an operator takes the site's figures over.
    side = pair.coordinator
    for _ in range(2):
        with pytest.raises(LedgerError, match="settle --rebase"):
            exchange.check(side.ledger, side.account, pair.from_site(), pair.id)
    exchange.rebase(side.ledger, side.account, "restored on Monday")
    exchange.rebase(pair.site.ledger, pair.site.account, "agreed by telephone")
    assert side.spent() >= pair.site.spent() == 6
    side.ledger.verify(side.account)
    pair.round(5)
    assert side.spent() >= pair.site.spent() == 8


def test_a_restored_backup_of_the_site_is_noticed_and_settled_upwards(pair: Pair) -> None:
    pair.round(1)
    copy = pair.site.back_up()
    pair.round(2)
    pair.site.restore(copy)
    site, theirs = pair.site, pair.from_coordinator()
    with pytest.raises(LedgerError, match="this ledger has lost events"):
        exchange.check(site.ledger, site.account, theirs, pair.id)
    added = exchange.rebase(site.ledger, site.account, "restored on Monday")
    assert added == ROUND
    assert site.spent() == 4
    side = pair.coordinator
    with pytest.raises(LedgerError):
        exchange.check(side.ledger, side.account, pair.from_site(), pair.id)
    exchange.rebase(side.ledger, side.account, "agreed by telephone")
    pair.round(3)
    assert side.spent() >= site.spent() == 6


def test_another_ledger_does_not_speak_for_a_site(pair: Pair, tmp_path: Path) -> None:
    pair.round(1)
    pair.site = Side(tmp_path / "another.sqlite")
    side = pair.coordinator
    with pytest.raises(LedgerError, match="another ledger speaks for the site"):
        exchange.check(side.ledger, side.account, pair.from_site(), pair.id)


def test_a_rewritten_chain_is_noticed(pair: Pair) -> None:
    pair.round(1)
    forged = replace(pair.from_coordinator(), head="0" * 64)
    with pytest.raises(LedgerError, match="rewritten"):
        exchange.check(pair.site.ledger, pair.site.account, forged, pair.id)


def test_other_coordinators_do_not_count_in_a_comparison(pair: Pair) -> None:
    pair.site.spend("another run", 1, "f" * 64)
    pair.round(1)
    assert pair.site.spent() == 4


def test_only_a_signed_position_of_this_round_is_read(pair: Pair) -> None:
    signed = replace(pair.from_site(), key="round-7").to_config(pair.site.ledger)
    assert Position.from_config(signed, "round-7").ledger == pair.site.ledger.id
    for change in ({"sequence": 9}, {"spent": "[]x"}, {"signature": "00"}, {"ledger": pair.id}):
        with pytest.raises(ProtocolError):
            Position.from_config({**signed, **change}, "round-7")
    with pytest.raises(ProtocolError, match="another round"):
        Position.from_config(signed, "round-8")
    with pytest.raises(ProtocolError, match="lacks"):
        Position.from_config({k: v for k, v in signed.items() if k != "head"}, "round-7")
