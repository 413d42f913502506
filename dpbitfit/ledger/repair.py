"""After a backup was restored: the larger of both sides' counts of every run, on both sides.

What the other side has recorded is known from its last signed heads, from a statement
that its operator has exported, or, of this ledger's own past, from the copy of its
heads (see ``heads``). Counts are only ever raised, and nothing is given back.
"""

import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import NamedTuple

from dpbitfit.accounting.mechanism import Counts
from dpbitfit.errors import InputError, LedgerError, ProtocolError
from dpbitfit.ledger import exchange, peers
from dpbitfit.ledger.account import Account, AccountName
from dpbitfit.ledger.canonical import counts_from_text
from dpbitfit.ledger.exchange import REPLACED, SignedHead
from dpbitfit.ledger.ledger import Ledger
from dpbitfit.ledger.peers import Peer, Runs

STATEMENT = "statement"  # the key of a head that is handed over in a file


class Raised(NamedTuple):
    """A coordinator's run, and the steps that were added to it."""

    coordinator: str
    run: str
    steps: Counts


def coordinators(ledger: Ledger, account: Account) -> list[str]:
    """The coordinators that have ever done anything with an account."""
    with ledger.database.read() as connection:
        heard = {peer.coordinator for peer in peers.find(connection, account.id).values()}
    allotments = ledger.allotments([account.id])[account.id].values()
    return sorted((heard | {allotment.coordinator for allotment in allotments}) - {""})


def statement(ledger: Ledger, account: Account, coordinator: str) -> str:
    """What this ledger has recorded of every run of a coordinator, signed: a line of JSON."""
    to = coordinator if coordinator != ledger.id else ledger.peer(account)
    head = exchange.head_for(ledger, account, coordinator, to, STATEMENT, math.inf)
    return json.dumps(head.to_config(ledger), sort_keys=True)


def hear(ledger: Ledger, lines: Iterable[str | bytes]) -> Iterator[tuple[Account, str]]:
    """Record what the other side has stated in a file; yields, by line, the account and its signer.

    Raises InputError for a line that cannot be read, or is signed by a coordinator that
    has had no part in its account; ProtocolError where the signature is not its own.
    """
    for line in lines:
        try:
            theirs = SignedHead.from_config(json.loads(line), STATEMENT)
        except (ValueError, AttributeError, RecursionError) as error:
            raise InputError("this is no statement of a ledger") from error
        site, _, rest = theirs.account.partition("/")
        dataset, _, unit = rest.partition("/")
        account = ledger.account(AccountName(site, dataset, unit))
        if ledger.id == theirs.ledger or theirs.coordinator not in (ledger.id, theirs.ledger):
            raise ProtocolError("this statement is for another ledger")
        if theirs.coordinator != ledger.id:
            with ledger.database.read() as connection:
                known = set(peers.find(connection, account.id))
            known |= set(coordinators(ledger, account))
        else:  # a site whose ledger was replaced
            known = set()
        if known and theirs.ledger not in known:
            raise InputError(
                f"{theirs.ledger} has signed this, and has had no part in account {account.name}: "
                "let it take part in a run first, which will be refused"
            )
        with suppress(LedgerError):  # of what it finds ``rebase`` makes an end
            exchange.check(ledger, account, theirs, theirs.coordinator, handed_over=True)
        yield account, theirs.ledger


def rebase(
    ledger: Ledger,
    account: Account,
    reason: str,
    known: Mapping[str, Runs] | None = None,
    stated: Collection[str] = (),
) -> list[Raised] | None:
    """Raise this side's record to the larger of both sides' counts, for every run.

    ``known`` are the counts that this ledger once had, by coordinator, where it has
    lost some; ``stated`` the ledgers that an operator has handed over a statement of. Without
    either only those are settled with that do not agree. Returns what was raised; None where
    nothing was done. Nothing is spent on the account until the other side has done the same.
    Raises LedgerError, after all others were settled with, where what another has recorded is not
    known yet: that one is left as it is. And where another ledger than before says that it speaks
    for the site, without a statement in ``stated``: that one is forgotten.
    """
    strangers = _forget_strangers(ledger, account, stated)
    with ledger.database.read() as connection:
        found = peers.find(connection, account.id).values()
        others = [peer for peer in found if _is_complete(peer)]
        everything = dict(known or {})
        for peer in others:
            if known is None and not peer.drift and peer.ledger not in stated:
                continue  # what it has done and this side has not heard of is still to come
            runs = peers.runs_from_text(peer.runs)
            everything[peer.coordinator] = peers.larger(everything.get(peer.coordinator, {}), runs)
        more = {
            coordinator: peers.lacking(runs, peers.runs_of(connection, account.id, coordinator))
            for coordinator, runs in everything.items()
        }
    if known is not None and not more:
        more = {"": {}}  # events were lost, but no run's: that is recorded too
    raised: list[Raised] | None = None
    for coordinator, runs in sorted(more.items()):
        theirs = [peer for peer in others if peer.coordinator == coordinator]
        drifted = [peer for peer in theirs if peer.drift]
        if not (runs or drifted or known is not None):
            continue  # what was stated is held here already
        ledger.rebase(account.name, runs, coordinator, reason)
        raised = [*(raised or ()), *(Raised(coordinator, *run) for run in runs.items())]
        heard_of = any(peer.coordinator == coordinator for peer in found)
        if not heard_of and coordinator not in ("", ledger.id):
            theirs = [Peer(account.id, coordinator, coordinator)]
        _settle(ledger, account, drifted or theirs, theirs)
    if unknown := [peer.ledger for peer in found if not _is_complete(peer)]:
        raise LedgerError(
            f"account {account.name}: what {', '.join(unknown)} has recorded of each run is not "
            "known here; take it from its statement: dpbitfit ledger settle --rebase --from FILE"
        )
    if strangers:
        raise LedgerError(
            f"account {account.name}: {ledger.peer(account)} speaks for the site; that "
            f"{', '.join(strangers)} does was said by a node, and is forgotten. If the site's "
            "operator confirms it: dpbitfit ledger settle --rebase --from FILE, with its statement"
        )
    return raised


def _forget_strangers(ledger: Ledger, account: Account, stated: Collection[str]) -> list[str]:
    """Delete the rows of ledgers that would take a site's place, and are not in ``stated``."""
    with ledger.database.write() as connection:
        found = peers.find(connection, account.id).values()
        strangers = [p.ledger for p in found if p.drift == REPLACED and p.ledger not in stated]
        peers.forget(connection, account.id, strangers)
    return strangers


def _is_complete(peer: Peer) -> bool:
    """Whether what a peer has stated in all is known of every run."""
    runs = peers.runs_from_text(peer.runs)
    return not peer.drift or not peers.missing(counts_from_text(peer.spent), peers.total(runs))


def _settle(ledger: Ledger, account: Account, speaking: list[Peer], known: list[Peer]) -> None:
    """Go on with the ledgers that speak now, and delete the rows of those that were lost."""
    gone = {peer.ledger for peer in known} - {peer.ledger for peer in speaking}
    with ledger.database.write() as connection:
        peers.forget(connection, account.id, gone)
        for peer in speaking:
            times = max(peer.wanted, peer.rebased + 1)
            fresh = peer._replace(sequence=0, head="", drift="", rebased=times, wanted=times)
            peers.save(connection, fresh)
