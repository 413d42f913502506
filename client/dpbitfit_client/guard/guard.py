"""The only object that touches a site's records. It does what the site's policy allows.

    signed by a coordinator that the policy lists -> within the policy's limits
        -> answered before? -> the ledgers agree -> the plan fits the share and the budget
        -> reserved, durably -> trained -> reply and commit in one transaction -> signed

Neither the coordinator is trusted nor the relay, Flower's process beside the guard.
A refusal is a fixed code, and where no record was touched the site's signature on that.

A reply leaves at the policy's next slot (see ``ReplySlot``), and so does a refusal that
has waited for its turn. What is refused before that has touched nothing, and leaves
at once.
"""

import importlib.metadata
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from dpbitfit.accounting.mechanism import Counts
from dpbitfit.errors import (
    AnswerLost,
    IdentityError,
    LedgerError,
    PolicyError,
    ProtocolError,
)
from dpbitfit.ledger import Account
from dpbitfit.ledger.outbox import Reply
from dpbitfit.plan import Plan
from dpbitfit.protocol.envelope import Envelope
from dpbitfit.protocol.messages import (
    DESCRIBE,
    REPLY,
    TRAIN,
    Description,
    EvaluationOffer,
    Facts,
    Refusal,
)
from dpbitfit.protocol.signing import untouched
from dpbitfit.tasks.attach import attach
from dpbitfit.tasks.base import Progress
from dpbitfit_client.generated import guard_pb2 as pb
from dpbitfit_client.guard import audit
from dpbitfit_client.guard.accounts import Accounts
from dpbitfit_client.guard.operations import EvaluateRound, Operation, RoundWork, TrainRound
from dpbitfit_client.guard.records import Read, Records, read_part
from dpbitfit_client.guard.refusing import refusing, refusing_work
from dpbitfit_client.guard.reply_slot import ReplySlot
from dpbitfit_client.guard.request import Request, read_head, read_question
from dpbitfit_client.guard.task_cache import Load, LoadedTask, TaskCache
from dpbitfit_client.policy.policy import Dataset, Policy

WAIT_SECONDS = 600  # for a round that this process or another one of the site still trains


def go_on(_done: int, _total: int) -> None:
    """Progress that ends nothing."""


@dataclass(frozen=True)
class _Allowed:
    """A request that the policy allows, its work, and the account that it is charged to."""

    operation: Operation
    request: Request
    account: Account
    work: RoundWork


class Guard:
    """A site's policy and ledger, and the tasks that its records are trained on."""

    def __init__(
        self, policy: Policy, read: Read = read_part, load_task: Load | None = None
    ) -> None:
        """Read every record that the policy names; InputError where one is unusable."""
        self.policy = policy
        self.records = Records(policy, read)
        self._accounts = Accounts(policy)
        self.ledger = self._accounts.ledger
        site = policy.site
        load = load_task or partial(attach, device=site.devices[0], precision=site.precision)
        self.tasks = TaskCache(
            *(policy.folder, self.records, load, policy.tasks),
            *(site.devices[1:], site.round_seconds, site.precision),
        )
        self._slot = ReplySlot(policy.site.reply_slot_seconds)

    def close(self) -> None:
        """Let no call begin any more, hold no reply back, and end the workers."""
        self._slot.close()
        self.tasks.close()

    def describe(self, envelope: Envelope) -> Envelope:
        """A Question's Description: public constants only. Raises Refused."""
        began = time.monotonic()
        with audit.request(DESCRIBE, envelope) as line, refusing(lambda code: Refusal(code=code)):
            question, plan = read_question(envelope)
            coordinator = envelope.sender
            line.signed_by(coordinator, self.policy.coordinator(coordinator), question.run)
            dataset = self._dataset(plan, coordinator)
            with self._alone(began):
                loaded = self._load(dataset, plan, coordinator)
            account = self._accounts.find(TRAIN, dataset)
            if question.head is not None:
                mine = self._accounts.head(account, coordinator, "")
                # A head that was sent before is for another head of this ledger.
                theirs = read_head(question.head, mine.head, coordinator)
                share = self.policy.limits(dataset.name, coordinator).epsilon
                self._accounts.compare(account, coordinator, theirs, share)
            description = Description(
                facts=self._facts(dataset, loaded),
                labels=tuple(loaded.task.labels),
                rounds_left=self._accounts.rounds_left(account, question.run, coordinator),
                evaluation=_offer(dataset),
                head=self._accounts.head(account, coordinator, ""),
            )
            return line.answer(Envelope.sign(self.ledger.signer, REPLY, description.encode()))

    def train(self, envelope: Envelope, progress: Progress = go_on) -> Envelope:
        """A RoundRequest's TrainReply: trained once, the same bytes when requested again.

        ``progress`` is called before each step; what it raises ends the round, which
        stays spent. Raises Refused.
        """
        return self._round(envelope, TrainRound(progress, self.policy.site.name))

    def evaluate(self, envelope: Envelope, progress: Progress = go_on) -> Envelope:
        """A RoundRequest's EvaluateReply: a plan's metrics, noised and charged.

        ``progress`` is called before each batch, as for a round. Raises Refused.
        """
        return self._round(envelope, EvaluateRound(progress))

    def status(self) -> pb.StatusReply:
        """Whether the guard is at work, and on behalf of which site."""
        return pb.StatusReply(
            site=self.policy.site.name,
            version=importlib.metadata.version("dpbitfit"),
            datasets=self.policy.datasets,
            busy=self._slot.busy,
        )

    def _round(self, envelope: Envelope, operation: Operation) -> Envelope:
        """Authorise, reserve, work once, reply."""
        with audit.request(operation.purpose, envelope) as line:
            return line.answer(self._answer(envelope, operation, line))

    def _answer(
        self, envelope: Envelope, operation: Operation, line: audit.RequestLine
    ) -> Envelope:
        began = time.monotonic()
        with refusing(lambda code: Refusal(code=code)):
            request = Request.read(envelope, operation.purpose)
        name = self.policy.coordinator(request.coordinator)
        line.signed_by(request.coordinator, name, request.run, request.round)
        with refusing(lambda code: Refusal(code=code, key=request.key)):
            dataset = self._dataset(request.plan, request.coordinator)
            operation.part(dataset)
            account = self._accounts.find(operation.purpose, dataset)
        refusal = partial(self._refusal, account=account, request=request)
        with refusing(refusal), self._alone(began):
            loaded = self._load(dataset, request.plan, request.coordinator)
            work = RoundWork(request.plan, request.round, request.run, dataset, loaded)
            allowed = _Allowed(operation, request, account, work)
            payload = self._stored(request)
            if payload is None:
                biases, once = self._reserve(allowed)
                line.charge(str(account.name), once, account.delta)
                with refusing_work(refusal):
                    payload = self._work(allowed, biases)
            else:
                line.outcome = audit.REPEATED
            return self._reply(allowed, payload)

    def _dataset(self, plan: Plan, coordinator: str) -> Dataset:
        """The data set that a plan is for, by a coordinator whom the policy lists."""
        if self.policy.coordinator(coordinator) is None:
            raise IdentityError("the policy knows no such coordinator")
        names = [plan.dataset] if plan.dataset else list(self.policy.datasets)
        if len(names) != 1 or names[0] not in self.policy.datasets:
            raise PolicyError("the plan names none of this site's data sets")
        return self.policy.datasets[names[0]]

    def _load(self, dataset: Dataset, plan: Plan, coordinator: str) -> LoadedTask:
        """The task of a plan that is within the policy's limits."""
        dataset.check(plan)
        settings = self.tasks.settings(dataset, plan)
        self.policy.limits(dataset.name, coordinator).check(plan, settings)
        return self.tasks.load(dataset, plan.model.name, settings, plan.needs_gradients)

    def _stored(self, request: Request) -> bytes | None:
        """The payload of the reply that was given to this request before."""
        reply = self.ledger.reply(request.key)
        # Fresh noise for the same request would be a second release.
        if reply is not None and reply.request != request.digest:
            raise ProtocolError("this key was used for another request")
        if reply is not None and reply.payload is None:
            raise AnswerLost("a later answer of the run has taken its place")
        before = self.ledger.reservation(request.key)
        if before is not None and before.state == "void":
            raise ProtocolError("this key was given up, as this site has signed")
        if reply is None and before is not None:
            raise AnswerLost("this key was used before, and its answer is lost")
        return reply.payload if reply else None

    def _reserve(self, allowed: _Allowed) -> tuple[NDArray[np.float32], Counts]:
        """Charge a round that fits; the biases [P] that it starts from, and what it costs."""
        request, work = allowed.request, allowed.work
        allowed.operation.check(work)
        limits = self.policy.limits(work.dataset.name, request.coordinator)
        distance = limits.bias_distance(work.plan, work.dataset.declared_size)
        biases = work.loaded.biases(request.biases, distance)
        once, whole = allowed.operation.steps(work)
        self._accounts.approve(request, allowed.account, once, whole, limits.epsilon)
        self._accounts.reserve(request, allowed.account, once)
        return biases, once

    def _work(self, allowed: _Allowed, biases: NDArray[np.float32]) -> bytes:
        """Do what was reserved, and store its reply in the transaction that commits it."""
        request = allowed.request
        last = self.ledger.last_reply(allowed.account, request.run)
        before = last.payload if last else None
        try:
            payload = allowed.operation.do(allowed.work, biases, before)
        except BaseException:
            # Records may have been touched: however the round ended, it stays spent.
            with suppress(LedgerError):
                self.ledger.commit({request.key: "ended early"})
            raise
        self.ledger.commit({request.key: "reply"}, Reply(request.key, request.digest, payload))
        return payload

    def _reply(self, allowed: _Allowed, payload: bytes) -> Envelope:
        """The signed reply of a stored payload."""
        request, work = allowed.request, allowed.work
        fields = {
            "facts": self._facts(work.dataset, work.loaded),
            "plan_digest": request.plan.digest,
            "round": request.round,
            "key": request.key,
            "head": self._accounts.head(allowed.account, request.coordinator, request.key),
        }
        message, content = allowed.operation.reply(request.plan, payload, fields)
        return Envelope.sign(self.ledger.signer, REPLY, message.encode(), content)

    @contextmanager
    def _alone(self, began: float) -> Iterator[None]:
        """One request at a time."""
        with self._slot.taken(began, WAIT_SECONDS), self._accounts.claimed(WAIT_SECONDS):
            yield

    def _facts(self, dataset: Dataset, loaded: LoadedTask) -> Facts:
        return Facts(
            site=self.policy.site.name,
            dataset=dataset.account,  # so that its coordinator keeps one account as well
            unit=dataset.unit,
            declared_size=dataset.declared_size,
            layout_digest=loaded.task.layout.digest,
            model_digest=loaded.task.digest,
            parameters=loaded.task.layout.size,
            version=importlib.metadata.version("dpbitfit"),
        )

    def _refusal(self, code: str, account: Account, request: Request) -> Refusal:
        """A refusal, with the site's promise that the key touched no data where that is so."""
        signature, head = "", None
        with suppress(LedgerError):
            self._accounts.require_newest()  # a ledger that was put back has forgotten keys
            void = (account.name, request.run, request.round, request.key, request.coordinator)
            if self.ledger.void_key(*void):
                signature = self.ledger.signer.sign("untouched", untouched(request.key))
        with suppress(LedgerError):
            head = self._accounts.head(account, request.coordinator, request.key)
        return Refusal(code=code, key=request.key, untouched=signature, head=head)


def _offer(dataset: Dataset) -> EvaluationOffer | None:
    """The evaluation that a coordinator may request."""
    evaluation = dataset.evaluation
    if evaluation is None:
        return None
    return EvaluationOffer(
        dataset=dataset.evaluation_name,
        unit=evaluation.unit,
        declared_size=evaluation.declared_size,
        delta=evaluation.delta,
        epsilon=evaluation.epsilon,
        metrics={name: n.noise_multiplier for name, n in evaluation.metrics.items()},
    )
