"""A site's ClientApp: dpbitfit's relay to the guard, with a Flower mod of one's own around it.

It runs as a user who may read nothing, from code that the coordinator ships: what a site
gives is decided by its guard, not here. In a simulation the guard is in this process.
"""

from logging import INFO

from dpbitfit_client import app as relay
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable
from flwr.common.logger import log


def log_sizes(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Say what leaves: the name of each record, and how many bytes its arrays have."""
    reply = call_next(message, context)
    if reply.has_content():
        arrays = {name: array.count_bytes() for name, array in reply.content.array_records.items()}
        log(INFO, "sends %s; arrays in bytes: %s", sorted(reply.content), arrays)
    return reply


app = ClientApp(mods=[log_sizes])
app.query()(relay.describe)
app.train()(relay.train)
app.evaluate()(relay.evaluate)
