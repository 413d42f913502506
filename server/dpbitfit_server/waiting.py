"""Waiting for nodes and for their replies, and saying for whose."""

import time
from collections.abc import Iterable, Mapping, Sequence

from flwr.app import Message
from flwr.serverapp import Grid

from dpbitfit_server.pulling import Pull
from dpbitfit_server.stream import INFO, WARNING, log

SECONDS_FOR_NODES = 60.0
# Between two looks for replies: soon at first, then as often as Flower itself looks.
FIRST_PAUSE, LAST_PAUSE = 0.2, 3.0
PULL_SECONDS = 1.0  # for a reply that is there; the next look goes on where it takes longer
# Between two lines that say who is waited for.
FIRST_LINE, LAST_LINE = 10.0, 300.0


def names(grid: Grid) -> dict[int, str]:
    """The nodes that are online, each by the name under which it was registered."""
    return {node.node_id: node.name or f"node {node.node_id}" for node in grid.get_nodes()}


def await_nodes(grid: Grid, count: int, known: Iterable[str]) -> None:
    """Wait, a minute at most, until ``count`` nodes are online.

    ``known`` are the sites that may be among those that are waited for.
    """
    pauses, lines = _Growing(FIRST_PAUSE, LAST_PAUSE), _Growing(FIRST_LINE, LAST_LINE)
    deadline = time.monotonic() + SECONDS_FOR_NODES
    while len(online := names(grid)) < count and time.monotonic() < deadline:
        if lines.is_due():
            log(INFO, "%s", _awaited(online.values(), count, known))
        pauses.sleep(deadline)
    if len(online) < count:
        log(WARNING, "%s; the others begin", _awaited(online.values(), count, known))


def ask(
    grid: Grid, messages: Sequence[Message], sites: Mapping[int, str], timeout: float
) -> list[Message]:
    """Send messages and collect their replies, as ``Grid.send_and_receive`` does.

    ``sites`` names the nodes; ``timeout`` is in seconds. A reply that does not come is
    not there.
    """
    # Flower gives no id to a message that it did not take, and none at all where it took none.
    pushed = zip(grid.push_messages(messages), messages, strict=False)
    waiting = {key: message for key, message in pushed if key}
    pauses, lines = _Growing(FIRST_PAUSE, LAST_PAUSE), _Growing(FIRST_LINE, LAST_LINE)
    deadline = time.monotonic() + timeout
    received: list[Message] = []
    pulls: dict[str, Pull] = {}
    while waiting:
        pulls = {key: pulls.get(key) or Pull(grid, message) for key, message in waiting.items()}
        for key, pull in list(pulls.items()):
            pull.join(PULL_SECONDS)
            if pull.is_alive():
                continue
            del pulls[key]
            if replies := pull.replies():
                del waiting[key]
                received += replies
        if not waiting or time.monotonic() >= deadline:
            break
        if lines.is_due():
            late = ", ".join(sorted(sites[m.metadata.dst_node_id] for m in waiting.values()))
            log(INFO, "waiting for %d of %d sites: %s", len(waiting), len(messages), late)
        pauses.sleep(deadline)
    return received


def _awaited(online: Iterable[str], count: int, known: Iterable[str]) -> str:
    here = set(online)
    missing = sorted(set(known) - here)
    lacking = count - len(here)
    if len(missing) == lacking:  # else it is not known which
        names_of = ", ".join(missing)
    else:
        names_of = f"online are {', '.join(sorted(here)) or 'none'}"
    return f"waiting for {lacking} of {count} sites: {names_of}"


class _Growing:
    """Times that lie further apart each time, up to a limit, in seconds."""

    def __init__(self, first: float, last: float) -> None:
        self._step, self._last = first, last
        self._due = time.monotonic() + first

    def is_due(self) -> bool:
        """Whether the next of them has come."""
        if time.monotonic() < self._due:
            return False
        self._grow()
        self._due = time.monotonic() + self._step
        return True

    def sleep(self, deadline: float) -> None:
        """Sleep until the next of them, or the deadline."""
        time.sleep(max(0.0, min(self._step, deadline - time.monotonic())))
        self._grow()

    def _grow(self) -> None:
        self._step = min(2 * self._step, self._last)
