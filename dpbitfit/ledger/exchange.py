"""Both sides exchange the signed heads of their ledgers with every message.

A signed head names the last event that a coordinator has caused on an account, what
its runs have spent, and the last event that was seen of the other side. It says
nothing of other coordinators: events are counted for each one alone, and a head
is a digest that only its ledger can make. From signed heads each side notices a
restored backup, a replay or a lost record, its own as well as the other's; the
account is then blocked until both sides have taken over the higher counts (see
``repair``). How often a side has done that is part of its signed head.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import sqlalchemy as sa

from dpbitfit.accounting.mechanism import Counts, merged
from dpbitfit.errors import LedgerDrift, LedgerError, ProtocolError
from dpbitfit.ledger import peers, schema
from dpbitfit.ledger.account import Account
from dpbitfit.ledger.budget import of_coordinator, still_approved, tight
from dpbitfit.ledger.canonical import counts_from_text, counts_to_text
from dpbitfit.ledger.ledger import Ledger
from dpbitfit.ledger.peers import Peer, missing
from dpbitfit.ledger.reader import Reader
from dpbitfit.protocol.signing import verify

PURPOSE = "position"
REPLACED = "another ledger than before says that it speaks for the site"
EXCEEDS = "by its own record the coordinator has spent more than its share"
MOST_RUNS = 8192  # characters of the counts by run in a message; a statement's file has no limit


@dataclass(frozen=True)
class SignedHead:
    """Where one side's ledger stands on an account, for the runs of one coordinator.

    ``ledger`` is its public key; ``sequence`` and ``head`` the last event that the
    coordinator has caused, counted from 1 for each coordinator; ``spent`` the
    canonical text of the steps that its runs have reserved or committed, ``runs``
    the same for each run ("" where that is too long for a message); ``rebased`` how
    often this side has taken over the other's counts; ``seen_sequence`` and
    ``seen_head`` the last event seen of the other side since then, 0 and "" before
    any; ``key`` the round or statement that it goes with, "" for none.
    """

    ledger: str
    account: str
    coordinator: str
    sequence: int
    head: str
    spent: str
    runs: str
    rebased: int
    seen_sequence: int
    seen_head: str
    key: str

    def to_config(self, ledger: Ledger) -> dict[str, str | int]:
        """The head and its signature as the flat scalars of a Flower ConfigRecord."""
        stated = asdict(self)
        return {**stated, "signature": ledger.signer.sign(PURPOSE, stated)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], key: str) -> Self:
        """Read a head that was signed for this key; ProtocolError where it was not."""
        values: dict[str, Any] = {field.name: config.get(field.name) for field in fields(cls)}
        for field in fields(cls):
            if type(values[field.name]) is not field.type:
                raise ProtocolError(f"a ledger's signed head lacks its {field.name}")
        verify(str(values["ledger"]), PURPOSE, values, str(config.get("signature")))
        if values["key"] != key:
            raise ProtocolError("a ledger's signed head is that of another round")
        if min(values["sequence"], values["rebased"], values["seen_sequence"]) < 0:
            raise ProtocolError("a ledger's signed head has a number below 0")
        try:
            counts_from_text(values["spent"]), peers.runs_from_text(values["runs"] or "{}")
        except LedgerError as error:
            raise ProtocolError(f"a ledger's signed head: {error}") from error
        return cls(**values)


def head_for(
    ledger: Ledger,
    account: Account,
    coordinator: str,
    to: str,
    key: str,
    most_runs: float = MOST_RUNS,
) -> SignedHead:
    """This ledger's head on ``coordinator``'s runs, for the ledger ``to``."""
    with ledger.database.read() as connection:
        known = peers.find(connection, account.id).get(to) or Peer(account.id, to, coordinator)
        spent = peers.runs_of(connection, account.id, coordinator)
        sequence = _count(connection, account.id, coordinator)
        head = _head(connection, ledger, account, coordinator, sequence)
    runs = peers.runs_to_text(spent)
    return SignedHead(
        ledger=ledger.id,
        account=str(account.name),
        coordinator=coordinator,
        sequence=sequence,
        head=head,
        spent=counts_to_text(peers.total(spent)),
        runs=runs if len(runs) <= most_runs else "",
        rebased=known.rebased,
        seen_sequence=known.sequence,
        seen_head=known.head,
        key=key,
    )


def check(
    ledger: Ledger,
    account: Account,
    theirs: SignedHead,
    coordinator: str,
    ahead: Counts = (),
    share: float = math.inf,
    handed_over: bool = False,
) -> None:
    """Compare the other side's head with this ledger, and record it.

    The coordinator's record is never behind the site's: at the site, theirs
    must hold ours and the steps ``ahead``, which are asked for now, and cost no more than
    the coordinator's ``share``: what costs more is taken over only from a statement that
    an operator hands over. So is what another ledger states than the one that spoke for the site
    before: every node could name the site. Raises ProtocolError for a head of another account,
    or that counts steps of another coordinator's run; LedgerDrift where the two do not agree, and
    from then on until both sides have taken over the higher counts.
    """
    if (theirs.account, theirs.coordinator) != (str(account.name), coordinator):
        raise ProtocolError("a ledger's signed head is that of another account")
    is_site = coordinator != ledger.id
    exceeds = is_site and _exceeds(ledger, account, theirs, ahead, share)
    with ledger.database.write() as connection:
        known = peers.find(connection, account.id)
        peer = known.get(theirs.ledger) or Peer(account.id, theirs.ledger, coordinator)
        ours = peers.total(peers.runs_of(connection, account.id, coordinator))
        claimed = counts_from_text(theirs.spent)
        # The first that is heard after this side has taken over the other's counts.
        first = bool(peer.rebased) and not peer.sequence
        waits = False
        if not is_site and known and theirs.ledger not in known:
            drift = REPLACED
        elif first and theirs.rebased < peer.rebased:
            drift, waits = "", True  # what it states is from before
        else:
            drift = (
                _drift_of_ours(connection, ledger, account, theirs)
                or _drift_of_theirs(peer, theirs)
                or _drift_of_counts(claimed, merged((*ours, *ahead)), is_site, first)
                or (EXCEEDS if exceeds else "")
            )
        peer = _learn(peer, theirs, drift, exceeds or (drift == REPLACED and not handed_over))
        if not waits and not peer.drift:
            peer = peer._replace(sequence=theirs.sequence, head=theirs.head)
        peers.save(connection, peer)
    if peer.drift == REPLACED:
        raise LedgerDrift(
            f"account {account.name}: {peer.drift}, {theirs.ledger}: if its operator confirms that "
            "this is the site's new ledger, take it in with its statement: dpbitfit ledger settle "
            "--rebase --from FILE"
        )
    if peer.drift:
        raise LedgerDrift(
            f"account {account.name}: {peer.drift}; nothing is spent on it until an operator of "
            "each side has looked and run: dpbitfit ledger settle --rebase"
        )
    if waits:
        raise LedgerDrift(
            f"account {account.name}: this side has taken over the higher counts, the other one "
            "has not: nothing is spent on it until its operator has run: dpbitfit ledger settle "
            "--rebase"
        )


def _exceeds(
    ledger: Ledger, account: Account, theirs: SignedHead, ahead: Counts, share: float
) -> bool:
    """Whether a coordinator states more than its share can have bought, besides what is ``ahead``.

    Rounds that never arrived are only in its record; with all that did they cost no more.
    Settling would spend the rest of what it states, which is others'.
    """
    claimed = counts_from_text(theirs.spent)
    runs = peers.runs_from_text(theirs.runs) if theirs.runs else {}
    if theirs.runs and peers.total(runs) != claimed:
        raise ProtocolError("a ledger's signed head counts other steps by run than in all")
    allotments = ledger.allotments([account.id])[account.id]
    own = of_coordinator(allotments, theirs.coordinator)
    if any(run in runs for run, _ in allotments.keys() - own.keys()):
        raise ProtocolError("a ledger's signed head counts steps of another coordinator's run")
    before = missing(claimed, ahead)
    if math.isinf(share) or not missing(before, still_approved(own)):
        return False
    return tight(before, account.delta).epsilon > share


def unsettled(ledger: Reader, account: Account) -> list[Peer]:
    """The ledgers with which an account's counts must be settled."""
    with ledger.database.read() as connection:
        return [peer for peer in peers.find(connection, account.id).values() if peer.drift]


def _learn(peer: Peer, theirs: SignedHead, drift: str, doubtful: bool) -> Peer:
    """The row after a head with this drift, or ""; where it is ``doubtful``, without its runs."""
    if drift:
        # A side that has seen nothing since it took over our counts knows of this already.
        settled = theirs.rebased > peer.rebased and not theirs.seen_sequence
        wanted = max(peer.rebased, theirs.rebased) + (not settled)
        peer = peer._replace(drift=peer.drift or drift, wanted=max(peer.wanted, wanted))
    runs = peers.runs_from_text("{}" if doubtful else theirs.runs or "{}")
    spent = counts_from_text(theirs.spent)
    if peer.drift:  # nothing that was ever stated is forgotten until it is settled
        runs = peers.larger(peers.runs_from_text(peer.runs), runs)
        known = counts_from_text(peer.spent)
        spent = merged((*known, *missing(spent, known)))
    return peer._replace(spent=counts_to_text(spent), runs=peers.runs_to_text(runs))


def _drift_of_theirs(peer: Peer, theirs: SignedHead) -> str:
    if theirs.rebased > peer.rebased:
        return "the other side has taken over this side's counts: do the same here"
    if theirs.sequence < peer.sequence or (peer.sequence and theirs.rebased < peer.rebased):
        return "the other side's ledger is older than it was: a backup was restored"
    if peer.sequence and theirs.sequence == peer.sequence and theirs.head != peer.head:
        return "the other side's ledger was rewritten"
    return ""


def _drift_of_ours(
    connection: sa.Connection, ledger: Ledger, account: Account, theirs: SignedHead
) -> str:
    seen, coordinator = theirs.seen_sequence, theirs.coordinator
    if seen and _head(connection, ledger, account, coordinator, seen) != theirs.seen_head:
        return "this ledger has lost events that the other side has seen: a backup was restored"
    return ""


def _drift_of_counts(claimed: Counts, ours: Counts, is_site: bool, first: bool) -> str:
    behind, before = (claimed, ours) if is_site else (ours, claimed)
    if missing(before, behind):
        return "the coordinator's record is behind the site's: a backup was restored"
    if is_site and first and missing(claimed, ours):
        return "the other side has recorded more than was taken over here"
    return ""


def _count(connection: sa.Connection, account_id: int, coordinator: str) -> int:
    table = schema.event
    mine = (table.c.account_id == account_id) & (table.c.coordinator == coordinator)
    return connection.scalar(sa.select(sa.func.count()).select_from(table).where(mine)) or 0


def _head(
    connection: sa.Connection, ledger: Ledger, account: Account, coordinator: str, number: int
) -> str:
    """The head after so many events of a coordinator; "" where there are not so many."""
    table = schema.event
    mine = (table.c.account_id == account.id) & (table.c.coordinator == coordinator)
    chosen = sa.select(table.c.hash).where(mine).order_by(table.c.sequence)
    event = connection.scalar(chosen.offset(number - 1).limit(1)) if number else None
    if event is None:
        return ""
    return ledger.signer.seal("head", {"coordinator": coordinator, "event": event})
