"""A round's requests to many sites, settled when their replies are in.

What was requested is spent, unless its site has signed that it touched no data: a
reply may be missing, late, refused or wrong, and only the site knows how far it came.
"""

from collections.abc import Callable, Iterable
from typing import TypeVar

from flwr.app import Message

from dpbitfit.errors import (
    AnswerLost,
    GuardUnavailable,
    LedgerDrift,
    ProtocolError,
)
from dpbitfit.protocol import flower
from dpbitfit.protocol.envelope import Envelope
from dpbitfit.protocol.messages import Refusal, RoundReply
from dpbitfit_server import replies
from dpbitfit_server.sites import Site, SiteRegistry
from dpbitfit_server.stream import INFO, WARNING, log

MOST_SILENT = 3  # rounds in a row

Sent = list[tuple[Message, Site]]
Reply = TypeVar("Reply", bound=RoundReply)
Value = TypeVar("Value")


class Refused(Exception):
    """A site refused a round; ``untouched``: it has signed that it touched no data for it."""

    def __init__(self, refusal: Refusal, untouched: bool) -> None:
        super().__init__(replies.explain(refusal))
        self.untouched, self.transient = untouched, refusal.code in replies.TRANSIENT


def settle(
    registry: SiteRegistry,
    number: int,
    sent: Sent,
    received: Iterable[Message],
    kind: type[Reply],
    read: Callable[[Reply, bytes, Site], Value],
) -> list[tuple[Message, Site, Value]]:
    """The good replies with what ``read`` makes of them; the others are charged and noted.

    A bad reply leaves its site out for the rest of the run, and so do ``MOST_SILENT`` rounds
    in a row that were spent without one; a site whose guard is away or busy, or that has lost
    an answer in a crash, is in again in a later round. The log names each site without a reply,
    and each that has one again.
    """
    # A failed node's reply names no sender, so the request says which site replies.
    waiting = {message.metadata.message_id: site for message, site in sent}
    outcomes = {site.key: "no reply" for site in waiting.values()}
    clean = []
    for message in received:
        site = waiting.pop(message.metadata.reply_to_message_id, None)
        if site is None:
            continue
        if message.has_error():
            _miss(number, site, replies.loss(message))
            continue
        try:
            envelope = flower.unpack(message.content)
            reply = _reply(registry, number, site, envelope, kind)
            value = read(reply, envelope.content, site)
        except GuardUnavailable:
            _miss(number, site, "its guard does not answer")
        except AnswerLost as error:
            outcomes[site.key] = error.code  # spent; the next round has another key
            _miss(number, site, "it has lost its answer")
        except Refused as error:
            if error.untouched:
                del outcomes[site.key]
            else:
                outcomes[site.key] = "refused"
            if not error.transient:
                _leave_out(site, error)
            elif error.untouched:
                _miss(number, site, str(error))
            else:
                _miss_again(number, site, str(error))
        except (ProtocolError, LedgerDrift) as error:  # no site is to blame for this ledger's own
            outcomes[site.key] = "refused"
            _leave_out(site, error)
        else:
            outcomes[site.key] = "reply"
            clean.append((message, site, value))
            if site.missing:
                log(INFO, "round %d: %s replies again", number, site.name)
            site.missing, site.silent = "", 0
    for site in waiting.values():
        _miss_again(number, site, "no reply in time")
    registry.ledger.commit(outcomes)
    return clean


def _reply(
    registry: SiteRegistry, number: int, site: Site, envelope: Envelope, kind: type[Reply]
) -> Reply:
    """A site's reply to the round that was requested of it.

    Raises Refused for a refusal; AnswerLost, GuardUnavailable, ProtocolError or LedgerDrift,
    with the reason, for a bad reply.
    """
    reply = registry.receive(site, envelope, kind)
    if isinstance(reply, Refusal):
        untouched = registry.release(site, reply)
        if reply.code == AnswerLost.code and not untouched:
            raise AnswerLost("it has lost its answer")
        raise Refused(reply, untouched)
    for field, value, expected in (
        ("site", reply.facts.site, site.name),
        ("plan", reply.plan_digest, registry.plan.digest),
        ("round", reply.round, number),
        ("key", reply.key, site.key),
    ):
        if value != expected:
            raise ProtocolError(f"the reply's {field} is not that of the request")
    return reply


def _miss(number: int, site: Site, why: str) -> None:
    site.missing = why
    log(WARNING, "round %d: nothing from %s: %s", number, site.name, why)


def _miss_again(number: int, site: Site, why: str) -> None:
    """Note a round that is spent for nothing; after some in a row the site is left out."""
    site.silent += 1
    if site.silent < MOST_SILENT:
        _miss(number, site, why)
    else:
        _leave_out(site, ProtocolError(f"{why}, {site.silent} times in a row"))


def _leave_out(site: Site, error: Exception) -> None:
    site.refused = str(error)
    log(WARNING, "%s is left out from now on: %s", site.name, error)
