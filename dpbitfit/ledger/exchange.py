"""Both sides show each other where their ledgers stand, each time they speak.

A position names the last event of an account, what the coordinator's runs have
spent on it, and the last event that was seen of the other side. From that each
side notices a restored backup, a replay or a lost record, its own as well as
the other's; the account then stands still until an operator takes over the
higher figures (``rebase``).
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import sqlalchemy as sa

from dpbitfit.accounting import Counts, Mechanism, checked, merged
from dpbitfit.errors import LedgerError, ProtocolError
from dpbitfit.ledger import rows, schema
from dpbitfit.ledger.book import Ledger
from dpbitfit.ledger.budget import Account
from dpbitfit.ledger.events import counts_from_text, counts_to_text
from dpbitfit.signing import verify

PURPOSE = "position"


@dataclass(frozen=True)
class Position:
    """Where one side's ledger stands on an account.

    ``ledger`` is its public key; ``spent`` the canonical text of the steps that
    the coordinator's runs have reserved or committed; ``seen_sequence`` and
    ``seen_head`` the last event seen of the other side's, 0 and "" before any;
    ``key`` the round that is spoken of, "" for none.
    """

    ledger: str
    sequence: int
    head: str
    spent: str
    seen_sequence: int
    seen_head: str
    key: str

    def to_config(self, ledger: Ledger) -> dict[str, str | int]:
        """The signed position as the flat scalars of a Flower ConfigRecord."""
        stated = asdict(self)
        return {**stated, "signature": ledger.signer.sign(PURPOSE, stated)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], key: str) -> Self:
        """Read a position that was signed for this round; ProtocolError where it was not."""
        values: dict[str, Any] = {field.name: config.get(field.name) for field in fields(cls)}
        for field in fields(cls):
            if type(values[field.name]) is not field.type:
                raise ProtocolError(f"a ledger's position lacks its {field.name}")
        verify(str(values["ledger"]), PURPOSE, values, str(config.get("signature")))
        if values["key"] != key:
            raise ProtocolError("a ledger's position is that of another round")
        return cls(**values)


def position(ledger: Ledger, account: Account, coordinator: str, to: str, key: str) -> Position:
    """Where this ledger stands, for the ledger ``to``, on ``coordinator``'s runs."""
    with ledger.database.read() as connection:
        current = rows.accounts_of(connection, [account.id])[0]
        seen = _peers(connection, account.id).get(to)
        spent = _spent(connection, account.id, coordinator)
    return Position(
        ledger=ledger.id,
        sequence=current.sequence,
        head=current.head,
        spent=counts_to_text(checked(spent)),
        seen_sequence=seen.sequence if seen else 0,
        seen_head=seen.head if seen else "",
        key=key,
    )


def check(
    ledger: Ledger,
    account: Account,
    theirs: Position,
    coordinator: str,
    ahead: Counts = (),
) -> None:
    """Compare the other side's position with this ledger, and remember it.

    The coordinator's record is never behind the site's: at the site, theirs
    must hold ours and the steps ``ahead``, which are asked for now. Raises
    LedgerError where the two do not agree, and from then on until ``rebase``.
    """
    is_site = coordinator != ledger.id
    with ledger.database.write() as connection:
        peers = _peers(connection, account.id)
        known = peers.get(theirs.ledger)
        ours = merged((*_spent(connection, account.id, coordinator).items(), *ahead))
        claimed = counts_from_text(theirs.spent)
        behind, before = (claimed, ours) if is_site else (ours, claimed)
        drift = known.drift if known is not None else ""
        if not is_site and known is None and peers:
            drift = "another ledger speaks for the site than before: it was lost or replaced"
        elif not drift and known is not None:
            drift = _drift_of_theirs(known, theirs)
        drift = drift or _drift_of_ours(connection, account.id, theirs)
        if not drift and missing(before, behind):
            drift = "the coordinator's record is behind the site's: a backup was restored"
        _remember(connection, account.id, theirs, coordinator, drift)
    if drift:
        raise LedgerError(
            f"account {account.name}: {drift}; nothing is spent on it until an operator has "
            "looked and run: ledger settle --rebase"
        )


def missing(counts: Counts, within: Counts) -> Counts:
    """The steps of ``counts`` that ``within`` does not hold."""
    have = dict(within)
    return checked({m: max(0, n - have.get(m, 0)) for m, n in counts})


def rebase(ledger: Ledger, account: Account, reason: str) -> Counts:
    """Take over what drifted peers know and this ledger does not; returns the steps added.

    Afterwards each peer's last stated position is the one that counts.
    """
    added: Counter[Mechanism] = Counter()
    with ledger.database.read() as connection:
        drifted = [one for one in _peers(connection, account.id).values() if one.drift]
    table = schema.peer
    for peer in drifted:
        with ledger.database.read() as connection:
            ours = checked(_spent(connection, account.id, peer.coordinator))
        more = missing(counts_from_text(peer.spent), ours)
        ledger.rebase(account.name, more, peer.coordinator, reason)
        added.update(dict(more))
        same = (table.c.account_id == account.id) & (table.c.coordinator == peer.coordinator)
        with ledger.database.write() as connection:
            # Of two ledgers that spoke for one side, the one that was lost speaks no more.
            connection.execute(sa.delete(table).where(same & (table.c.ledger != peer.ledger)))
            connection.execute(sa.update(table).where(same).values(drift=""))
    return checked(added)


def _drift_of_theirs(known: Any, theirs: Position) -> str:
    if theirs.sequence < known.sequence:
        return "the other side's ledger is older than it was: a backup was restored"
    if theirs.sequence == known.sequence and theirs.head != known.head:
        return "the other side's ledger was rewritten"
    return ""


def _drift_of_ours(connection: sa.Connection, account_id: int, theirs: Position) -> str:
    if not theirs.seen_sequence:
        return ""
    table = schema.event
    at = (table.c.account_id == account_id) & (table.c.sequence == theirs.seen_sequence)
    if connection.scalar(sa.select(table.c.hash).where(at)) != theirs.seen_head:
        return "this ledger has lost events that the other side has seen: a backup was restored"
    return ""


def _remember(
    connection: sa.Connection, account_id: int, theirs: Position, coordinator: str, drift: str
) -> None:
    table = schema.peer
    here = {"account_id": account_id, "ledger": theirs.ledger}
    values = {
        "coordinator": coordinator,
        "sequence": theirs.sequence,
        "head": theirs.head,
        "spent": theirs.spent,
        "drift": drift,
    }
    change = sa.update(table).where(*rows.equal(table, here)).values(**values)
    if not connection.execute(change).rowcount:
        connection.execute(sa.insert(table).values(**here, **values))


def _peers(connection: sa.Connection, account_id: int) -> dict[str, Any]:
    table = schema.peer
    chosen = sa.select(table).where(table.c.account_id == account_id)
    return {row.ledger: row for row in connection.execute(chosen)}


def _spent(connection: sa.Connection, account_id: int, coordinator: str) -> Counter[Mechanism]:
    """Steps that a coordinator's runs have reserved or committed."""
    table = schema.allotment
    here = {"account_id": account_id, "coordinator": coordinator}
    spent: Counter[Mechanism] = Counter()
    for row in connection.execute(sa.select(table).where(*rows.equal(table, here))):
        spent[rows.to_mechanism(row)] += row.reserved + row.committed
    return spent
