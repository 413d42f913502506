"""What a site answers: the guard's statements, or one trained round."""

import hashlib
import json

from flwr.app import ArrayRecord, ConfigRecord, Context, RecordDict

from dpbitfit import codec
from dpbitfit.errors import ProtocolError
from dpbitfit.plan import Plan
from dpbitfit_client.guard import Guard
from dpbitfit_client.memory import Memory

# A process that Flower keeps alive between messages keeps its sites' models and records warm.
_guards: dict[str, Guard] = {}


def describe(context: Context) -> RecordDict:
    """The site's public statements."""
    return _statements(_guard(context).describe())


def train(content: RecordDict, context: Context) -> RecordDict:
    """One round of a plan: statements, and the noised change as one packed array.

    Raises a DpbitfitError when the site does not accept the request.
    """
    plan, number, key, packed = _read_request(content)
    guard = _guard(context)
    biases = codec.decode(packed, guard.task.layout.size)
    accountant = guard.accountant(plan)
    memory = Memory.recall(context.state, plan, accountant)
    request = (key, plan.digest, hashlib.sha256(biases.tobytes()).hexdigest())
    if memory.request[0] == key:
        # The same question gets the same bytes, free; fresh noise would be a second release.
        if memory.request != request or memory.update is None:
            raise ProtocolError("this key was used for another request")
        update = memory.update
    else:
        guard.accept(plan, accountant)
        memory.request, memory.update = request, None
        memory.keep(context.state, accountant)  # charged before any record is touched
        change, memory.optimizer = guard.train(plan, biases, memory.optimizer)
        update = memory.update = codec.encode(change)
        memory.keep(context.state, accountant)
    reply = _statements({**guard.describe(), "plan_digest": plan.digest, "round": number})
    reply["update"] = update
    return reply


def _read_request(content: RecordDict) -> tuple[Plan, int, str, ArrayRecord]:
    """The parts of a request.

    Raises ProtocolError where one is missing or of a wrong kind, InputError for
    a plan with a number out of range.
    """
    plan, request, biases = (content.get(name) for name in ("plan", "request", "biases"))
    if not isinstance(plan, ConfigRecord) or not isinstance(request, ConfigRecord):
        raise ProtocolError("the request carries no plan")
    if not isinstance(biases, ArrayRecord):
        raise ProtocolError("the request carries no biases")
    number, key = request.get("round"), request.get("key")
    if type(number) is not int or not isinstance(key, str) or not 16 <= len(key) <= 200:
        raise ProtocolError("the request carries no round or no key")
    read = Plan.from_config(plan)
    if request.get("plan_digest") != read.digest:
        raise ProtocolError("the request's plan is not the one that its digest names")
    read.check()
    return read, number, key, biases


def _guard(context: Context) -> Guard:
    run, node = dict(context.run_config), dict(context.node_config)
    name = json.dumps([run, node], sort_keys=True)
    if name not in _guards:
        _guards[name] = Guard.load(run, node)
    return _guards[name]


def _statements(values: dict[str, str | int]) -> RecordDict:
    return RecordDict({"statements": ConfigRecord({**values, "refused": ""})})
