"""Flower's entry at a site: envelopes in, envelopes out.

It relays between Flower and the site's guard, and owns nothing. What goes wrong
is answered by a fixed code: no record count, no loss, no traceback.

Nothing heavy is imported before a message comes: a simulation imports this
file beside the server's thread, and transformers does not bear that.
"""

from collections.abc import Callable
from logging import WARNING

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.common.logger import log

from dpbitfit.errors import DpbitfitError
from dpbitfit.protocol import flower
from dpbitfit.protocol.envelope import Envelope
from dpbitfit_client.guard_client import GuardClient, guard_of
from dpbitfit_client.message import Refused

app = ClientApp()


@app.query()
def describe(message: Message, context: Context) -> Message:
    """Describe this site."""
    return _relay(message, context, lambda guard, request: guard.describe(request))


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train one round of a plan, if the site accepts it."""
    return _relay(message, context, lambda guard, request: guard.train(request))


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Measure on the held-out records, if the site accepts it."""
    return _relay(message, context, lambda guard, request: guard.evaluate(request))


def _relay(
    message: Message, context: Context, call: Callable[[GuardClient, Envelope], Envelope]
) -> Message:
    simulated = "guard" not in context.node_config
    try:
        guard = guard_of(context.run_config, context.node_config)
        reply = call(guard, flower.unpack(message.content))
    except Refused as refused:
        # In a simulation the data is the researcher's own, and so is the log.
        log(WARNING, "refused: %s", refused.code, exc_info=simulated)
        reply = Envelope(refused.statement)
    except Exception as error:  # its text may quote a record: only a code leaves
        code = error.code if isinstance(error, DpbitfitError) else "internal"
        log(WARNING, "refused: %s", code, exc_info=simulated)
        reply = Envelope(_refusal(code))
    return Message(flower.pack(reply), reply_to=message)


def _refusal(code: str) -> bytes:
    from dpbitfit.protocol.messages import Refusal  # slow, and seldom needed

    return Refusal(code=code).encode()
