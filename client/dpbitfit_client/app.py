"""Flower's entry at a site: messages in, statements and one noised vector out.

A reply carries statements and, after training, one packed array: no record
count, no loss, no traceback. What goes wrong is answered by a fixed code.

Nothing heavy is imported before a message comes: a simulation imports this
file beside the server's thread, and transformers does not bear that.
"""

from collections.abc import Callable
from logging import WARNING

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.logger import log

from dpbitfit.errors import DpbitfitError, ProtocolError
from dpbitfit_client.shard import is_simulated

app = ClientApp()


@app.query()
def describe(message: Message, context: Context) -> Message:
    """State what this site is."""

    def work() -> RecordDict:
        from dpbitfit_client import service

        return service.describe(message.content, context)

    return _answer(message, context, work)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train one round of a plan, if the site accepts it."""

    def work() -> RecordDict:
        from dpbitfit_client import service

        return service.train(message.content, context)

    return _answer(message, context, work)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Refuse: nothing is evaluated on private records."""
    return Message(_refusal(ProtocolError.code), reply_to=message)


def _answer(message: Message, context: Context, work: Callable[[], RecordDict]) -> Message:
    try:
        content = work()
    except Exception as error:  # whatever it says, it may quote a record: only a code leaves
        code = error.code if isinstance(error, DpbitfitError) else "internal"
        # In a simulation the data is the researcher's own, and so is the log.
        log(WARNING, "refused: %s", code, exc_info=is_simulated(context.node_config))
        content = _refusal(code)
    return Message(content, reply_to=message)


def _refusal(code: str) -> RecordDict:
    return RecordDict({"statements": ConfigRecord({"refused": code})})
