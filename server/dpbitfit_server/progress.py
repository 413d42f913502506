"""A round's line of progress: public figures, for the checkpoint, the stream and the report."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from flwr.app import Message

from dpbitfit.plan import Plan
from dpbitfit.protocol.flower import payload_bytes
from dpbitfit_server.sites import Site, SiteRegistry

Line = dict[str, Any]


def count_bytes(sent: Iterable[tuple[Message, Site]], replies: Iterable[Message]) -> Line:
    """Payload bytes of a round; each site's are added to what it had before."""
    line, waiting = Line(bytes_up=0, bytes_down=0), {}
    for message, site in sent:
        waiting[message.metadata.message_id] = site
        size = payload_bytes(message)
        line["bytes_down"] += size
        site.bytes_down += size
    for reply in replies:
        size = payload_bytes(reply)
        line["bytes_up"] += size
        sender = waiting.get(reply.metadata.reply_to_message_id)
        if sender is not None:
            sender.bytes_up += size
    return line


def describe_round(
    registry: SiteRegistry, plan: Plan, number: int, metrics: Mapping[str, Any]
) -> Line:
    """Where a run stands after a round, 0 being its start; metrics are None where not finite."""
    statuses = [registry.standing(site) for site in registry.sites.values()]
    return Line(
        run=registry.run,
        round=number,
        rounds=plan.rounds,
        phase=plan.phase(number).kind if number else "",
        metrics={name: value if math.isfinite(value) else None for name, value in metrics.items()},
        guaranteed=max((status.promised for status in statuses), default=0.0),
        accrued=max((status.accrued.bound.epsilon for status in statuses), default=0.0),
        seconds=0.0,
        refused=len(registry.refused),
        missing=registry.missing,
    )
