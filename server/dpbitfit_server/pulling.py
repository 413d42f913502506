"""A site's reply, pulled so that whatever it holds, or lacks, is that site's matter alone."""

import functools
import json
import threading
from collections.abc import Sequence

import httpx
from flwr.app import Array, Error, Message
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import InflatableObject, get_object_body

MOST_ARRAY_BYTES = 1 << 30


class Pull(threading.Thread):
    """A look for the reply to one message, in a thread of its own.

    Flower waits for minutes for what a node has announced and does not send, and raises where it
    sends what cannot be read: together, the replies of the others would be late, or lost.
    """

    def __init__(self, grid: Grid, sent: Message) -> None:
        super().__init__(daemon=True)
        limit_arrays()
        self._grid, self._sent = grid, sent
        self._replies: Sequence[Message] = ()
        self._failure: BaseException | None = None
        self.start()

    def run(self) -> None:
        """Pull; Flower has not lost what cannot be read, so that there is none to come."""
        try:
            self._replies = list(self._grid.pull_messages([self._sent.metadata.message_id]))
        except BaseException as error:
            if isinstance(error, httpx.HTTPError) or not isinstance(error, Exception):
                self._failure = error
                return
            unreadable = Error(ErrorCode.MESSAGE_UNAVAILABLE)  # the text may quote what was sent
            self._replies = [Message(unreadable, reply_to=self._sent)]

    def replies(self) -> Sequence[Message]:
        """What was there; raises httpx.HTTPError where the SuperLink cannot be asked."""
        if self._failure is not None:
            raise self._failure
        return self._replies


@functools.cache
def limit_arrays() -> None:
    """Have Flower refuse an array of more than a gigabyte, before it takes the memory.

    Its chunks are joined as often as its sender names them: of a few megabytes, terabytes.
    """
    inflate = Array.inflate

    def limited(
        object_content: bytes, children: dict[str, InflatableObject] | None = None
    ) -> Array:
        named = json.loads(get_object_body(object_content, Array))["arraychunk_ids"]
        largest = max((len(chunk.data) for chunk in (children or {}).values()), default=0)  # type: ignore[attr-defined]
        if len(named) * largest > MOST_ARRAY_BYTES:
            raise ValueError("the array is too large")
        return inflate(object_content, children)

    Array.inflate = limited  # type: ignore[method-assign]
