"""Flower's entry at a site: messages in, statements and one noised vector out.

It relays between Flower and the site's guard, and owns nothing. What goes wrong
is answered by a fixed code: no record count, no loss, no traceback.

Nothing heavy is imported before a message comes: a simulation imports this
file beside the server's thread, and transformers does not bear that.
"""

from collections.abc import Callable
from logging import WARNING

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.logger import log

from dpbitfit.errors import DpbitfitError
from dpbitfit_client import message as said
from dpbitfit_client.guard_client import GuardClient, guard_of
from dpbitfit_client.message import Refused

app = ClientApp()


@app.query()
def describe(message: Message, context: Context) -> Message:
    """State what this site is."""
    return _relayed(message, context, lambda desk: desk.describe(said.question(message.content)))


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train one round of a plan, if the site accepts it."""
    return _relayed(message, context, lambda desk: desk.train(said.request(message.content)))


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Measure on records that are kept for that, if the site accepts it."""
    return _relayed(message, context, lambda desk: desk.evaluate(said.request(message.content)))


def _relayed(
    message: Message, context: Context, ask: Callable[[GuardClient], said.Reply]
) -> Message:
    simulated = "guard" not in context.node_config
    try:
        content = said.content(ask(guard_of(context.run_config, context.node_config)))
    except Refused as refused:
        # In a simulation the data is the researcher's own, and so is the log.
        log(WARNING, "refused: %s", refused.code, exc_info=simulated)
        content = said.refusal(refused.refusal)
    except Exception as error:  # whatever it says, it may quote a record: only a code leaves
        code = error.code if isinstance(error, DpbitfitError) else "internal"
        log(WARNING, "refused: %s", code, exc_info=simulated)
        content = RecordDict({"statements": ConfigRecord({"refused": code})})
    return Message(content, reply_to=message)
