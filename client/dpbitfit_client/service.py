"""What a site answers: the guard's statements, or one trained round."""

import json
from logging import WARNING

from flwr.app import ConfigRecord, Context, RecordDict
from flwr.common.logger import log

from dpbitfit import codec
from dpbitfit.errors import DpbitfitError, ProtocolError
from dpbitfit_client import answer
from dpbitfit_client.guard import Guard
from dpbitfit_client.request import Request

# A process that Flower keeps alive between messages keeps its sites' models and records warm.
_guards: dict[str, Guard] = {}


def describe(content: RecordDict, context: Context) -> RecordDict:
    """The site's public statements, and where its ledger stands."""
    asked = content.get("asked")
    coordinator = asked.get("ledger") if isinstance(asked, ConfigRecord) else None
    if not isinstance(coordinator, str) or len(coordinator) != 64:
        raise ProtocolError("the question does not say which ledger asks")
    guard = _guard(context)
    return _reply(guard, coordinator, "", refused="")


def train(content: RecordDict, context: Context) -> RecordDict:
    """One round of a plan: statements, and the noised change as one packed array.

    A refusal carries the site's signature that no record was touched, where
    that is so. Raises a DpbitfitError for a request that cannot be read.
    """
    guard = _guard(context)
    request = Request.read(content, guard.task.layout.size)
    coordinator = request.position.ledger
    try:
        payload = guard.answer(request)
    except DpbitfitError as error:
        log(WARNING, "refused: %s", error.code)
        untouched = guard.decline(request)
        return _reply(guard, coordinator, request.key, refused=error.code, untouched=untouched)
    stated: dict[str, str | int] = {"plan_digest": request.plan.digest, "round": request.round}
    reply = _reply(guard, coordinator, request.key, refused="", **stated)
    reply["update"] = codec.encode(answer.change_of(payload))
    return reply


def _guard(context: Context) -> Guard:
    run, node = dict(context.run_config), dict(context.node_config)
    name = json.dumps([run, node], sort_keys=True)
    if name not in _guards:
        _guards[name] = Guard.load(run, node)
    return _guards[name]


def _reply(guard: Guard, coordinator: str, key: str, **stated: str | int) -> RecordDict:
    return RecordDict(
        {
            "statements": ConfigRecord({**guard.describe(), **stated}),
            "position": ConfigRecord({**guard.position(coordinator, key)}),
        }
    )
