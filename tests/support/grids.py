"""A grid in this process, whose nodes do what a test tells them."""

import json
import threading
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

import numpy as np
from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid

from dpbitfit.errors import LedgerError
from dpbitfit.ledger import AccountName, Ledger, exchange
from dpbitfit.ledger.exchange import SignedHead
from dpbitfit.plan import Plan
from dpbitfit.protocol.envelope import Envelope
from dpbitfit.protocol.flower import pack, unpack
from dpbitfit.protocol.messages import Head, Question, RoundRequest
from dpbitfit.protocol.signing import untouched
from dpbitfit.schema import canonical

from . import plans

PARAMETERS = 50
PLAN = plans.plan(
    noise_multiplier=2.0,
    sampling_rate=0.2,
    rounds=3,
    steps_per_round=2,
    learning_rate=0.1,
)

Fields = dict[str, str | int]
Answer = Callable[[Message], RecordDict | Error | None]


class LocalGrid(Grid):
    """Nodes by id; an answer of None is a reply that never comes."""

    def __init__(self, nodes: dict[int, Answer]) -> None:
        self.nodes = nodes
        self.sent: list[Message] = []
        self._replies: list[Message] = []
        self._lock = threading.RLock()  # replies are pulled in several threads

    def get_node_ids(self) -> Iterable[int]:
        return list(self.nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        keys = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = message.object_id
            self.sent.append(message)
            answer = self.nodes[message.metadata.dst_node_id](message)
            if isinstance(answer, Error):
                reply = Message(answer, reply_to=message)
                reply.metadata.__dict__["_src_node_id"] = 1  # as Flower does for a lost node
                self._replies.append(reply)
            elif answer is not None:
                self._replies.append(Message(answer, reply_to=message))
            keys.append(message.object_id)
        return keys

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        wanted = set(message_ids)
        with self._lock:
            replies = [one for one in self._replies if one.metadata.reply_to_message_id in wanted]
            self._replies = [one for one in self._replies if one not in replies]
        return replies

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        raise NotImplementedError

    def of(self, kind: str) -> list[Message]:
        return [message for message in self.sent if message.metadata.message_type == kind]

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *_: Any, **__: Any) -> Message:
        raise NotImplementedError


class Site:
    """A well-behaved site that adds ``change`` to every bias; tests change what it states.

    Its ledger is real; it answers the same key with the same reply.
    """

    def __init__(self, name: str, size: int = 100, change: float = 1.0) -> None:
        folder = mkdtemp()
        self.ledger = Ledger(f"{folder}/site.sqlite", create=True)
        weakref.finalize(self, rmtree, folder)
        weakref.finalize(self, self.ledger.database.close)  # first
        self.account = self.ledger.open_account(
            AccountName(name, "records", "record"), PLAN.delta, 8.0
        )
        self.facts: dict[str, Any] = {
            "site": name,
            "dataset": "records",
            "unit": "record",
            "declared_size": size,
            "layout_digest": PLAN.model.layout,
            "model_digest": PLAN.model.digest,
            "parameters": PARAMETERS,
            "version": "0.1.0",
        }
        self.change = np.full(PARAMETERS, change, dtype=np.float32)
        self.stated: dict[str, Any] = {}  # in a round's reply, in place of its own fields
        self.refuses = ""  # a code for every question
        self.requests: list[RoundRequest] = []
        self._replies: dict[str, Envelope] = {}

    def __call__(self, message: Message) -> RecordDict | Error | None:
        envelope = unpack(message.content)
        if message.metadata.message_type == "query":
            return pack(self.describe(envelope))
        self.requests.append(envelope.read(RoundRequest, "train"))
        reply = self.train(envelope)
        return pack(reply) if isinstance(reply, Envelope) else reply

    def describe(self, envelope: Envelope) -> Envelope:
        question = envelope.read(Question, "describe")
        if question.head is not None:
            self.receive(question.head, envelope.sender)
        if self.refuses:
            return self.refusal(self.refuses)
        return self.signed(
            {"labels": [], "rounds_left": -1, "evaluation": None}, self.head(envelope.sender)
        )

    def receive(self, head: Head, coordinator: str) -> None:
        """The head of a coordinator's ledger, for a site that does not agree with it."""
        key = str(self.head(coordinator)["head"])
        theirs = SignedHead.from_config(head.model_dump(), key)
        with suppress(LedgerError):
            exchange.check(self.ledger, self.account, theirs, coordinator)

    def head(self, coordinator: str, key: str = "") -> Fields:
        head = exchange.head_for(self.ledger, self.account, coordinator, coordinator, key)
        return head.to_config(self.ledger)

    def train(self, envelope: Envelope) -> Envelope | RecordDict | Error | None:
        request = envelope.read(RoundRequest, "train")
        key, run = request.key, request.run
        if key in self._replies:
            return self._replies[key]
        theirs = SignedHead.from_config(request.head.model_dump(), key)
        counts = PLAN.phases[0].round_counts
        exchange.check(self.ledger, self.account, theirs, theirs.ledger, counts)
        name = self.account.name
        plan = Plan.decode(request.plan.encode()).digest
        self.ledger.allot(name, run, plan, PLAN.counts, theirs.ledger)
        self.ledger.reserve(run, request.round, {self.account.id: key}, counts)
        self.ledger.commit({key: "reply"})
        head = self.head(theirs.ledger, key)
        fields = {"plan_digest": plan, "round": request.round, "key": key, **self.stated}
        self._replies[key] = reply = self.signed(fields, head, self.change.tobytes())
        return reply

    def refuse_rounds(self, code: str) -> None:
        """Refuse every round after it has touched data."""
        usual = self.train

        def train(envelope: Envelope) -> Envelope:
            reply = usual(envelope)
            assert isinstance(reply, Envelope)
            return self.refusal(code, head=json.loads(reply.statement)["head"])

        self.train = train  # type: ignore[method-assign]

    def release_rounds(self, code: str, times: int) -> None:
        """Refuse the first rounds before any data is touched."""
        usual, left = self.train, list(range(times))

        def train(envelope: Envelope) -> Any:
            if not left:
                return usual(envelope)
            left.pop()
            key = envelope.read(RoundRequest, "train").key
            signature = self.ledger.signer.sign("untouched", untouched(key))
            return self.refusal(code, key, self.head(envelope.sender, key), signature)

        self.train = train  # type: ignore[method-assign]

    def signed(self, fields: dict[str, Any], head: Fields, content: bytes = b"") -> Envelope:
        """A reply with the site's signature."""
        values = {"facts": self.facts, "head": head, **fields}
        return Envelope.sign(self.ledger.signer, "reply", canonical(values), content)

    def refusal(
        self,
        code: str,
        key: str = "",
        head: Fields | None = None,
        untouched: str = "",
    ) -> Envelope:
        values = {"code": code, "key": key, "untouched": untouched, "head": head}
        return Envelope(canonical(values))


class Clock:
    """In place of the module ``time``: time passes while one sleeps, and only then."""

    def __init__(self) -> None:
        self._now = 0.0

    def monotonic(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self._now += seconds
