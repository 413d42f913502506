"""A grid in this process, whose nodes do what a test tells them."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.serverapp import Grid

from dpbitfit.errors import LedgerError
from dpbitfit.ledger import AccountName, Ledger, exchange
from dpbitfit.ledger.exchange import SignedHead
from dpbitfit.plan import Plan
from dpbitfit.protocol import codec, payloads

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
    """A well-behaved site that adds ``change`` to every bias; tests change what it says.

    Its ledger is real; it answers the same key with the same reply.
    """

    def __init__(self, name: str, size: int = 100, change: float = 1.0) -> None:
        self._folder = TemporaryDirectory()
        self.ledger = Ledger(f"{self._folder.name}/site.sqlite", create=True)
        self.account = self.ledger.open_account(
            AccountName(name, "records", "record"), PLAN.delta, 8.0
        )
        self.described: dict[str, Any] = {
            "site": name,
            "dataset": "records",
            "unit": "record",
            "declared_size": size,
            "layout_digest": PLAN.layout_digest,
            "model_digest": PLAN.model_digest,
            "refused": "",
        }
        self.change = np.full(PARAMETERS, change, dtype=np.float32)
        self.stated: dict[str, Any] = {}
        self.asked: list[Message] = []
        self._replies: dict[str, RecordDict] = {}

    def __call__(self, message: Message) -> RecordDict | Error | None:
        if message.metadata.message_type == "query":
            coordinator = str(message.content.config_records["asked"]["ledger"])
            said = message.content.config_records.get("position")
            if said is not None:
                self.hear(said, coordinator)
            described = self.signed(self.described)
            return RecordDict({"statements": described, "position": self.stand(coordinator)})
        self.asked.append(message)
        return self.train(message.content)

    def hear(self, said: ConfigRecord, coordinator: str) -> None:
        """Where the coordinator's ledger stands, told to a site that does not agree with it."""
        theirs = SignedHead.from_config(dict(said), str(self.stand(coordinator)["head"]))
        with suppress(LedgerError):
            exchange.check(self.ledger, self.account, theirs, coordinator)

    def stand(self, coordinator: str, key: str = "") -> ConfigRecord:
        stands = exchange.position(self.ledger, self.account, coordinator, coordinator, key)
        return ConfigRecord({**stands.to_config(self.ledger)})

    def train(self, content: RecordDict) -> RecordDict | Error | None:
        request = content.config_records["request"]
        key, run = str(request["key"]), str(request["run"])
        if key in self._replies:
            return self._replies[key]
        theirs = SignedHead.from_config(dict(content.config_records["position"]), key)
        counts = PLAN.counts(PLAN.steps_per_round)
        exchange.check(self.ledger, self.account, theirs, theirs.ledger, counts)
        name = self.account.name
        plan = Plan.from_config(content.config_records["plan"]).digest
        self.ledger.allot(name, run, plan, PLAN.counts(PLAN.steps), theirs.ledger)
        self.ledger.reserve(run, int(str(request["round"])), {self.account.id: key}, counts)
        self.ledger.commit({key: "reply"})
        self._replies[key] = reply = RecordDict(
            {
                "statements": self.signed(
                    {
                        "site": self.described["site"],
                        "plan_digest": plan,
                        "round": request["round"],
                        "refused": "",
                        **self.stated,
                    },
                    self.change.tobytes(),
                ),
                "position": self.stand(theirs.ledger, key),
                "update": codec.encode(self.change),
            }
        )
        return reply

    def signed(self, stated: dict[str, Any], content: bytes = b"") -> ConfigRecord:
        """Statements with the site's signature."""
        said = {key: value for key, value in stated.items() if key != "refused"}
        signature = self.ledger.signer.sign("reply", payloads.reply(said, content))
        return ConfigRecord({**stated, "signature": signature})
