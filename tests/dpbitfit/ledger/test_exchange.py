"""Two ledgers that speak of one account: what each notices of the other, and how it ends."""

import shutil
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from dpbitfit.accounting.mechanism import Counts, Mechanism
from dpbitfit.errors import InputError, LedgerError, ProtocolError
from dpbitfit.ledger import Account, AccountName, Ledger, exchange, peers, repair, schema
from dpbitfit.ledger.canonical import counts_to_text
from dpbitfit.ledger.exchange import SignedHead
from dpbitfit.ledger.peers import Runs
from dpbitfit.ledger.repair import Raised

NAME = AccountName("site-1", "records", "record")
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

    def runs(self, coordinator: str) -> Runs:
        with self.ledger.database.read() as connection:
            return peers.runs_of(connection, self.account.id, coordinator)

    def spent(self) -> int:
        held = self.ledger.allotments([self.account.id])[self.account.id].values()
        return sum(one.reserved + one.committed for one in held)


class Pair:
    """A coordinator and a site, and what they say to each other."""

    def __init__(self, folder: Path) -> None:
        self.coordinator, self.site = Side(folder / "c.sqlite"), Side(folder / "s.sqlite")

    @property
    def id(self) -> str:
        return self.coordinator.ledger.id

    @property
    def both(self) -> tuple[Side, Side]:
        return self.coordinator, self.site

    def from_coordinator(self) -> SignedHead:
        to = self.site.ledger.id
        side = self.coordinator
        return exchange.head_for(side.ledger, side.account, self.id, to, "")

    def from_site(self) -> SignedHead:
        return exchange.head_for(self.site.ledger, self.site.account, self.id, self.id, "")

    def hear_at(self, side: Side, ahead: Counts = ()) -> None:
        theirs = self.from_site() if side is self.coordinator else self.from_coordinator()
        exchange.check(side.ledger, side.account, theirs, self.id, ahead)

    def meet(self) -> bool:
        """A run begins: the site says where it stands, and is told where they do not agree."""
        message = self.from_site()
        unaware = bool(message.rebased) and not message.seen_sequence
        agreed = True
        try:
            self.hear_at(self.coordinator)
        except LedgerError:
            unaware, agreed = True, False
        if unaware:
            with suppress(LedgerError):
                self.hear_at(self.site)
        return agreed

    def round(self, number: int, run: str = "run") -> None:
        """A round that is asked for, trained and answered."""
        self.coordinator.spend(run, number, self.id)
        self.hear_at(self.site, ROUND)
        self.site.spend(run, number, self.id)
        self.hear_at(self.coordinator)

    def is_blocked(self) -> bool:
        """Whether a run gets nothing from the site."""
        if not self.meet():
            return True
        with suppress(LedgerError):
            self.hear_at(self.site)
            return False
        return True

    def rebase(self, side: Side, *stated: str) -> list[Raised] | None:
        reason = "a backup was restored on Monday"
        return repair.rebase(side.ledger, side.account, reason, stated=stated)


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def test_two_honest_ledgers_agree_round_after_round(pair: Pair) -> None:
    for number in range(1, 6):
        pair.round(number)
    assert pair.coordinator.spent() == pair.site.spent() == 10
    assert not pair.is_blocked()


def test_a_lost_round_at_the_site_is_no_drift(pair: Pair) -> None:
    pair.coordinator.spend("run", 1, pair.id)  # the message never arrived
    pair.round(2)
    assert (pair.coordinator.spent(), pair.site.spent()) == (4, 2)
    assert not pair.is_blocked()


@pytest.mark.parametrize("restored", [("site",), ("coordinator",), ("site", "coordinator")])
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("tried_between", [False, True])
def test_a_restored_side_is_blocked_until_both_have_taken_over_the_higher_counts(
    pair: Pair, restored: tuple[str, ...], first: int, tried_between: bool
) -> None:
    pair.round(1, "old")
    copies = {name: getattr(pair, name).back_up() for name in restored[:1]}
    pair.round(2, "old")
    pair.round(1, "new")  # a run that the restored side will not know
    if len(restored) > 1:  # the later copy: together they hold everything
        copies[restored[1]] = getattr(pair, restored[1]).back_up()
    for name, copy in copies.items():
        getattr(pair, name).restore(copy)
    assert not pair.meet()
    assert pair.is_blocked()
    sides = pair.both if first == 0 else pair.both[::-1]
    raised = [pair.rebase(sides[0])]
    assert raised[0] is not None
    assert pair.is_blocked()  # one side alone clears nothing, whichever
    if tried_between:
        pair.meet()
    raised.append(pair.rebase(sides[1]))
    assert raised[1] is not None
    added = {run: steps for one in raised for _, run, steps in one or ()}
    assert added == {"old": ROUND, "new": ROUND}
    for side in pair.both:
        assert side.runs(pair.id) == {"old": ((STEP, 4),), "new": ROUND}
        assert "restored on Monday" in side.ledger.events(NAME)[-1].body
        side.ledger.verify(side.account)
    assert not pair.is_blocked()
    pair.round(3, "old")
    assert pair.site.runs(pair.id)["old"] == ((STEP, 6),)
    assert [pair.rebase(side) for side in pair.both] == [None, None]


def test_what_was_stated_before_a_second_restore_is_not_forgotten(pair: Pair) -> None:
    pair.round(1)
    copies = [side.back_up() for side in pair.both]
    pair.round(2)
    pair.coordinator.restore(copies[0])
    assert not pair.meet()  # the site has stated both rounds
    pair.site.restore(copies[1])
    assert not pair.meet()
    assert pair.rebase(pair.coordinator) == [Raised(pair.id, "run", ROUND)]
    for side in (*pair.both[::-1], *pair.both):
        pair.meet()
        pair.rebase(side)
    assert not pair.is_blocked()
    assert pair.site.runs(pair.id) == {"run": ((STEP, 4),)}


@pytest.mark.parametrize("restored", ["site", "coordinator"])
def test_statements_settle_it_before_a_run_has_noticed(pair: Pair, restored: str) -> None:
    pair.round(1)
    side = getattr(pair, restored)
    copy = side.back_up()
    pair.round(2)
    side.restore(copy)
    other = pair.site if side is pair.coordinator else pair.coordinator
    message = repair.statement(other.ledger, other.account, pair.id)
    assert [one.name for one, _ in repair.hear(side.ledger, [message])] == [NAME]
    assert pair.rebase(side) == [Raised(pair.id, "run", ROUND)]
    answer = repair.statement(side.ledger, side.account, pair.id)
    list(repair.hear(other.ledger, [answer]))
    assert pair.rebase(other) == []
    assert pair.coordinator.runs(pair.id) == pair.site.runs(pair.id) == {"run": ((STEP, 4),)}
    assert not pair.is_blocked()


def test_an_old_statement_does_not_clear_what_was_recorded_since(pair: Pair) -> None:
    pair.round(1)
    copy = pair.site.back_up()
    pair.round(2)
    old = repair.statement(pair.coordinator.ledger, pair.coordinator.account, pair.id)
    pair.round(3)
    pair.site.restore(copy)
    list(repair.hear(pair.site.ledger, [old]))
    assert pair.rebase(pair.site) == [Raised(pair.id, "run", ROUND)]
    assert not pair.meet()
    pair.rebase(pair.coordinator)
    assert pair.is_blocked()  # what was stated is not what the coordinator holds
    assert pair.rebase(pair.site) == [Raised(pair.id, "run", ROUND)]
    assert not pair.meet()
    pair.rebase(pair.coordinator)
    assert not pair.is_blocked()
    assert pair.site.runs(pair.id) == {"run": ((STEP, 6),)}


def test_only_a_ledger_that_had_a_part_is_heard_from_a_file(pair: Pair, tmp_path: Path) -> None:
    pair.round(1)
    stranger = Side(tmp_path / "stranger.sqlite")
    stranger.spend("run", 1, stranger.ledger.id)
    forged = repair.statement(stranger.ledger, stranger.account, stranger.ledger.id)
    with pytest.raises(InputError, match="has had no part"):
        list(repair.hear(pair.site.ledger, [forged]))
    own = repair.statement(pair.site.ledger, pair.site.account, pair.id)
    changed = own.replace('"sequence": 3', '"sequence": 4')
    assert changed != own
    for wrong, at in ((changed, pair.coordinator), (own, pair.site)):
        with pytest.raises(ProtocolError):
            list(repair.hear(at.ledger, [wrong]))
    for garbage in ("", "[]", "{}", "\x00"):
        with pytest.raises((InputError, ProtocolError)):
            list(repair.hear(pair.site.ledger, [garbage]))
    assert pair.rebase(pair.site) is None


def test_more_runs_than_a_message_holds_are_taken_from_a_statement(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "MOST_RUNS", 40)
    monkeypatch.setattr(exchange.head_for, "__defaults__", (40,))
    pair.round(1, "a")
    copy = pair.site.back_up()
    pair.round(1, "b")
    pair.round(1, "c")
    pair.site.restore(copy)
    assert pair.is_blocked()
    with pytest.raises(LedgerError, match="--from FILE"):
        pair.rebase(pair.site)
    side = pair.coordinator
    list(repair.hear(pair.site.ledger, [repair.statement(side.ledger, side.account, pair.id)]))
    assert pair.rebase(pair.site) == [Raised(pair.id, "b", ROUND), Raised(pair.id, "c", ROUND)]


def test_a_site_whose_ledger_is_another_is_blocked_until_both_have_settled_it(
    pair: Pair, tmp_path: Path
) -> None:
    """The coordinator's operator with a statement of the site's: any node could say so."""
    pair.round(1)
    pair.site = Side(tmp_path / "another.sqlite")
    with pytest.raises(LedgerError, match="another ledger than before"):
        pair.hear_at(pair.coordinator)
    message = repair.statement(pair.site.ledger, pair.site.account, pair.id)
    list(repair.hear(pair.coordinator.ledger, [message]))
    assert pair.rebase(pair.coordinator, pair.site.ledger.id) == []
    assert pair.is_blocked()
    pair.rebase(pair.site)
    assert pair.site.runs(pair.id) == {"run": ROUND}
    assert not pair.is_blocked()


def test_a_node_that_takes_a_sites_name_gets_neither_its_account_nor_its_budget(
    pair: Pair, tmp_path: Path
) -> None:
    """Whatever it states, and though an operator settles as the alert says."""
    pair.round(1)
    honest, pair.site = pair.site, Side(tmp_path / "stranger.sqlite")
    side, runs = pair.coordinator, {"never was": ((STEP, 10**6),)}
    claim = replace(
        pair.from_site(),
        spent=counts_to_text(peers.total(runs)),
        runs=peers.runs_to_text(runs),
    )
    with pytest.raises(LedgerError, match="another ledger than before"):
        exchange.check(side.ledger, side.account, claim, pair.id)
    with pytest.raises(LedgerError, match="is forgotten"):
        pair.rebase(side)
    assert side.runs(pair.id) == {"run": ROUND}
    assert not exchange.unsettled(side.ledger, side.account)
    assert side.ledger.peer(side.account) == honest.ledger.id
    pair.site = honest
    pair.round(2)


def test_a_coordinator_that_forgets_cannot_clear_the_block_at_the_site(pair: Pair) -> None:
    pair.round(1)
    copy = pair.site.back_up()
    pair.round(2)
    pair.site.restore(copy)
    assert not pair.meet()
    with pair.coordinator.ledger.database.write() as connection:
        connection.execute(sa.delete(schema.peer))
    with pytest.raises(LedgerError, match="has lost events"):
        pair.hear_at(pair.site, ROUND)


def test_a_rewritten_chain_is_noticed(pair: Pair) -> None:
    pair.round(1)
    forged = replace(pair.from_coordinator(), head="0" * 64)
    with pytest.raises(LedgerError, match="rewritten"):
        exchange.check(pair.site.ledger, pair.site.account, forged, pair.id)


def test_a_position_says_nothing_of_other_coordinators(pair: Pair) -> None:
    pair.round(1)
    before = pair.from_site()
    other = "f" * 64
    pair.site.spend("another run", 1, other)
    pair.site.ledger.void_key(NAME, "another run", 9, "k" * 16, other)
    pair.site.ledger.set_budget(NAME, 7.0, "less")
    assert pair.from_site() == before
    pair.round(2)
    assert pair.from_site().sequence == before.sequence + 2  # reserved and committed
    events = pair.site.ledger.events(NAME)
    assert not {pair.from_site().head, before.head} & {event.hash for event in events}
    assert pair.site.spent() == 6


def test_a_position_is_of_one_account_and_one_coordinator(pair: Pair) -> None:
    pair.round(1)
    for change in ({"account": "site-1/others/record"}, {"coordinator": "f" * 64}):
        theirs = replace(pair.from_coordinator(), **change)
        with pytest.raises(ProtocolError, match="another account"):
            exchange.check(pair.site.ledger, pair.site.account, theirs, pair.id)


def test_only_a_signed_position_of_this_round_is_read(pair: Pair) -> None:
    signed = replace(pair.from_site(), key="round-7").to_config(pair.site.ledger)
    assert SignedHead.from_config(signed, "round-7").ledger == pair.site.ledger.id
    wrong = ({"sequence": 9}, {"spent": "[]x"}, {"runs": "{}x"}, {"rebased": 1})
    for change in (*wrong, {"signature": "00"}, {"ledger": pair.id}):
        with pytest.raises(ProtocolError):
            SignedHead.from_config({**signed, **change}, "round-7")
    with pytest.raises(ProtocolError, match="another round"):
        SignedHead.from_config(signed, "round-8")
    with pytest.raises(ProtocolError, match="lacks"):
        SignedHead.from_config({k: v for k, v in signed.items() if k != "head"}, "round-7")


def claiming(pair: Pair, runs: Runs) -> SignedHead:
    """What a coordinator states that claims more of these runs than it has done."""
    stated = pair.from_coordinator()
    every = peers.larger(peers.runs_from_text(stated.runs), runs)
    spent = counts_to_text(peers.total(every))
    return replace(stated, spent=spent, runs=peers.runs_to_text(every))


def test_what_a_coordinator_states_above_its_share_is_taken_over_from_a_file_alone(
    pair: Pair,
) -> None:
    """Settling would spend what is others'; a site that was restored may have to."""
    pair.round(1)
    hear = partial(exchange.check, pair.site.ledger, pair.site.account, coordinator=pair.id)
    # Rounds that never arrived are within it.
    hear(theirs=claiming(pair, {"run": ((STEP, 20),), "lost": ((STEP, 5),)}), share=2.0)
    for run, steps in (("run", 10**4), ("never was", 10**6)):
        with pytest.raises(LedgerError, match="spent more than its share"):
            hear(theirs=claiming(pair, {run: ((STEP, steps),)}), share=2.0)
    with pytest.raises(LedgerError, match="take it from its statement"):
        repair.rebase(pair.site.ledger, pair.site.account, "looked")
    assert pair.site.runs(pair.id) == {"run": ROUND}
    with suppress(LedgerError):  # as from a file
        hear(theirs=claiming(pair, {"run": ((STEP, 10**4),), "never was": ((STEP, 10**6),)}))
    repair.rebase(pair.site.ledger, pair.site.account, "agreed by telephone")
    assert pair.site.runs(pair.id)["never was"] == ((STEP, 10**6),)


def test_what_is_asked_for_now_may_cost_more_than_the_share(pair: Pair) -> None:
    """Its plan is then refused, and nothing is wrong with the record."""
    pair.round(1)
    site = (pair.site.ledger, pair.site.account)
    dear: Counts = ((STEP, 10**4),)
    exchange.check(*site, claiming(pair, {"dear": dear}), pair.id, dear, share=2.0)
    assert not exchange.unsettled(*site)


def test_who_states_too_much_holds_up_no_settling_with_others(pair: Pair) -> None:
    pair.round(1)
    other = Ledger(str(pair.site.path.with_name("other.sqlite")), create=True)
    account = other.open_account(NAME, 1e-5, 8.0)
    head = exchange.head_for(other, account, other.id, pair.site.ledger.id, "")
    runs: Runs = {"never was": ((STEP, 10**6),)}
    claim = {"spent": counts_to_text(peers.total(runs)), "runs": peers.runs_to_text(runs)}
    site = (pair.site.ledger, pair.site.account)
    with pytest.raises(LedgerError, match="its share"):
        exchange.check(*site, replace(head, **claim), other.id, share=2.0)
    kept = {pair.id: {"run": ((STEP, 6),)}}  # as of a ledger that was restored
    with pytest.raises(LedgerError, match="take it from its statement"):
        repair.rebase(pair.site.ledger, pair.site.account, "restored", kept)
    assert pair.site.runs(pair.id) == kept[pair.id]
    assert pair.site.runs(other.id) == {}
    assert {peer.coordinator: bool(peer.drift) for peer in known_of(pair.site)} == {
        pair.id: False,
        other.id: True,
    }
    other.database.close()


def test_what_a_coordinator_states_is_of_its_own_runs_and_adds_up(pair: Pair) -> None:
    pair.round(1)
    pair.site.spend("another run", 1, "f" * 64)
    hear = partial(exchange.check, pair.site.ledger, pair.site.account, coordinator=pair.id)
    with pytest.raises(ProtocolError, match="another coordinator's run"):
        hear(theirs=claiming(pair, {"another run": ROUND}))
    with pytest.raises(ProtocolError, match="other steps by run"):
        hear(theirs=replace(claiming(pair, {"run": ((STEP, 9),)}), spent=counts_to_text(ROUND)))


def test_the_filters_order_does_not_follow_from_what_was_lost(tmp_path: Path) -> None:
    """It has to be fixed before results are seen, and those of a lost run were."""
    orders = set()
    for number, lost in enumerate((Mechanism(0.5, 1e-3), Mechanism(20.0, 1.0))):
        side = Side(tmp_path / f"{number}.sqlite")
        side.ledger.rebase(NAME, {"lost": ((lost, 10),)}, "f" * 64, "restored")
        orders.add(side.ledger.account(NAME).filter_order)
        side.ledger.database.close()
    assert len(orders) == 1
    assert orders != {0}


def test_settling_with_one_coordinator_leaves_the_others_as_they_are(pair: Pair) -> None:
    """Whose rounds may be on their way."""
    pair.round(1)
    other = Ledger(str(pair.site.path.with_name("other.sqlite")), create=True)
    account = other.open_account(NAME, 1e-5, 8.0)
    other.allot(NAME, "lost", "plan", ((STEP, 20),), other.id)
    other.reserve("lost", 1, {account.id: "never-arrived"}, ROUND)
    head = exchange.head_for(other, account, other.id, pair.site.ledger.id, "")
    exchange.check(pair.site.ledger, pair.site.account, head, other.id)
    with suppress(LedgerError):
        rewritten = replace(pair.from_coordinator(), head="0" * 64)
        exchange.check(pair.site.ledger, pair.site.account, rewritten, pair.id)
    assert repair.rebase(pair.site.ledger, pair.site.account, "looked") == []
    assert pair.site.runs(other.id) == {}
    rebased = {peer.coordinator: peer.rebased for peer in known_of(pair.site)}
    assert rebased == {pair.id: 1, other.id: 0}
    other.database.close()


def known_of(side: Side) -> list[peers.Peer]:
    with side.ledger.database.read() as connection:
        return list(peers.find(connection, side.account.id).values())
