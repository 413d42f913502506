"""One question to many sites, settled when their replies are in.

What was asked is spent, unless its site has signed that it touched no data: a
reply may be missing, late, refused or wrong, and nobody knows how far it came.
"""

from collections.abc import Callable, Iterable
from logging import WARNING
from typing import TypeVar

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.logger import log

from dpbitfit.errors import AnswerLost, DpbitfitError, GuardUnavailable, ProtocolError
from dpbitfit_server import messages
from dpbitfit_server.sites import Site, SiteRegistry

Sent = list[tuple[Message, Site]]
Value = TypeVar("Value")


class Untouched(ProtocolError):
    """A site refused a round, and has signed that it touched no data for it."""


def settle(
    roster: SiteRegistry,
    number: int,
    sent: Sent,
    replies: Iterable[Message],
    read: Callable[[RecordDict, ConfigRecord, Site], Value],
) -> list[tuple[Message, Site, Value]]:
    """The good replies with what ``read`` finds in them; the others are charged and noted.

    A bad reply leaves its site out for the rest of the run; a site whose guard is
    away, or that has lost an answer in a crash, is asked again in a later round.
    """
    # A failed node's reply names no sender, so the question says who answers.
    waiting = {message.metadata.message_id: site for message, site in sent}
    outcomes = {site.key: "no reply" for site in waiting.values()}
    clean = []
    for reply in replies:
        site = waiting.pop(reply.metadata.reply_to_message_id, None)
        if site is None or not reply.has_content():
            continue
        try:
            found = read(reply.content, _statements(roster, number, site, reply.content), site)
        except GuardUnavailable:
            log(WARNING, "round %d: the guard of %s does not answer", number, site.name)
        except AnswerLost as error:
            outcomes[site.key] = error.code  # spent; the next round has another key
            log(WARNING, "round %d: %s has lost its answer", number, site.name)
        except Untouched as error:
            del outcomes[site.key]
            _leave_out(site, error)
        except DpbitfitError as error:
            outcomes[site.key] = "refused"
            _leave_out(site, error)
        else:
            outcomes[site.key] = "reply"
            clean.append((reply, site, found))
    roster.ledger.commit(outcomes)
    return clean


def _statements(roster: SiteRegistry, number: int, site: Site, content: RecordDict) -> ConfigRecord:
    """What a site states of the round that it was asked for.

    Raises Untouched for a refusal that cost nothing; AnswerLost, GuardUnavailable,
    ProtocolError or LedgerError, with the reason, for a bad reply.
    """
    said = roster.hear(site, content)
    if said.get("refused") and roster.release(site, said):
        raise Untouched(messages.refusal(said))
    if said.get("refused") == AnswerLost.code:
        raise AnswerLost("it has lost its answer")
    messages.accepted(content)
    for key, wanted in (
        ("site", site.name),
        ("plan_digest", roster.plan.digest),
        ("round", number),
    ):
        if said.get(key) != wanted:
            raise ProtocolError(f"the reply's {key} is not the one that was asked for")
    return said


def _leave_out(site: Site, error: DpbitfitError) -> None:
    site.refused = str(error)
    log(WARNING, "%s is left out from now on: %s", site.name, error)
