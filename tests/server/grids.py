"""A grid in this process, whose nodes do what a test tells them."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.serverapp import Grid

from dpbitfit import codec
from dpbitfit.plan import Plan

PARAMETERS = 50
PLAN = Plan(
    layout_digest="0" * 64,
    model_digest="1" * 64,
    noise_multiplier=2.0,
    sampling_rate=0.2,
    rounds=3,
    steps_per_round=2,
    delta=1e-5,
    learning_rate=0.1,
)

Answer = Callable[[Message], RecordDict | Error | None]


class LocalGrid(Grid):
    """Nodes by id; an answer of None is a reply that never comes."""

    def __init__(self, nodes: dict[int, Answer]) -> None:
        self.nodes = nodes
        self.sent: list[Message] = []

    def get_node_ids(self) -> Iterable[int]:
        return list(self.nodes)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        replies = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = message.object_id
            self.sent.append(message)
            answer = self.nodes[message.metadata.dst_node_id](message)
            if isinstance(answer, Error):
                reply = Message(answer, reply_to=message)
                reply.metadata.__dict__["_src_node_id"] = 1  # as Flower does for a lost node
                replies.append(reply)
            elif answer is not None:
                replies.append(Message(answer, reply_to=message))
        return replies

    def of(self, kind: str) -> list[Message]:
        return [message for message in self.sent if message.metadata.message_type == kind]

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *_: Any, **__: Any) -> Message:
        raise NotImplementedError

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError


class Site:
    """A well-behaved site that adds ``change`` to every bias; tests change what it says."""

    def __init__(self, name: str, size: int = 100, change: float = 1.0) -> None:
        self.described: dict[str, Any] = {
            "site": name,
            "declared_size": size,
            "layout_digest": PLAN.layout_digest,
            "model_digest": PLAN.model_digest,
            "refused": "",
        }
        self.change = np.full(PARAMETERS, change, dtype=np.float32)
        self.stated: dict[str, Any] = {}
        self.asked: list[Message] = []

    def __call__(self, message: Message) -> RecordDict | Error | None:
        if message.metadata.message_type == "query":
            return RecordDict({"statements": ConfigRecord(self.described)})
        self.asked.append(message)
        return self.train(message.content)

    def train(self, content: RecordDict) -> RecordDict | Error | None:
        request = content.config_records["request"]
        stated = {
            "site": self.described["site"],
            "plan_digest": request["plan_digest"],
            "round": request["round"],
            "refused": "",
            **self.stated,
        }
        return RecordDict({"statements": ConfigRecord(stated), "update": codec.encode(self.change)})
