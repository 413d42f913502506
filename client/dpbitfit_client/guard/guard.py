"""The one object that touches a site's records. It answers what the site's policy allows.

    signed by somebody the policy knows -> within the policy's limits -> asked before?
        -> the ledgers agree -> the plan fits the share and the budget -> reserved, durably
        -> trained -> answer and commit in one transaction -> signed

Whoever carries the messages is not trusted: not the coordinator, and not Flower's
process beside it. A refusal says a fixed code, and where no record was touched
the site's signature that this is so.

What has had its turn leaves at the policy's next slot (see ``ReplySlot``). What is
refused before that has touched nothing, and leaves at once.
"""

import importlib.metadata
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpbitfit.accounting.composition import Counts
from dpbitfit.errors import (
    AnswerLost,
    DpbitfitError,
    IdentityError,
    InputError,
    LedgerError,
    PolicyError,
    ProtocolError,
)
from dpbitfit.ledger import Account, AccountName, Ledger, exchange, status
from dpbitfit.ledger.heads import Heads
from dpbitfit.ledger.outbox import Reply
from dpbitfit.plan import Plan
from dpbitfit.protocol import payloads
from dpbitfit.tasks.text_classification import Progress
from dpbitfit_client import message
from dpbitfit_client.generated import guard_pb2 as pb
from dpbitfit_client.guard.operations import EvaluateRound, Operation, Round_co, TrainRound
from dpbitfit_client.guard.records import Read, Records, read_part
from dpbitfit_client.guard.reply_slot import ReplySlot
from dpbitfit_client.guard.request import Request, read_position, read_question
from dpbitfit_client.guard.task_cache import LoadedTask, TaskCache
from dpbitfit_client.message import Refused
from dpbitfit_client.policy.policy import Dataset, Evaluation, Policy

WAIT_SECONDS = 600  # for a round that this process or another one of the site still trains


def go_on(_done: int, _of: int) -> None:
    """Progress that ends nothing."""


class Guard:
    """A site's policy and ledger, and the rooms in which its records are trained on."""

    def __init__(self, policy: Policy, read: Read = read_part) -> None:
        """Read every record that the policy names; InputError where one is unusable."""
        self.policy = policy
        self.records = Records(policy, read)
        self.ledger = Ledger(policy.site.ledger)
        self._heads = Heads(policy.site.state_directory)
        self._heads.check(self.ledger)
        self._accounts = {}
        for name, one in policy.datasets.items():
            self._refuse_forgetting(one)
            shares = self._shares(one.account)
            self._accounts["train", name] = self._open(one.account, one, shares)
            if one.evaluation is not None:
                account = self._open(one.evaluation_name, one.evaluation, shares)
                self._accounts["evaluate", name] = account
        self._heads.write(self.ledger)
        self._rooms = TaskCache(policy.folder, self.records)
        self._turn = ReplySlot(policy.site.reply_slot_seconds)

    def close(self) -> None:
        """Let nobody begin any more, and hold no reply back."""
        self._turn.close()

    def describe(self, asked: pb.DescribeRequest) -> pb.DescribeReply:
        """What this site is, for a plan: public constants only. Raises Refused."""
        began = time.monotonic()
        with _refusing(lambda code: pb.Refusal(code=code)):
            plan = read_question(asked)
            dataset = self._known(plan, asked.coordinator)
            with self._alone(began):
                room = self._enter(dataset, plan, asked.coordinator)
            account = self._accounts["train", dataset.name]
            if asked.HasField("position"):
                self._compare(account, asked)
            reply = pb.DescribeReply(
                statements=self._statements(dataset, room),
                labels=room.task.labels,
                evaluation=_offer(dataset),
                rounds_left=self._rounds_left(account, asked.run, asked.coordinator),
                position=self._position(account, asked.coordinator, ""),
            )
            message.sign(self.ledger.signer, reply)
        return reply

    def train(self, asked: pb.RoundRequest, progress: Progress = go_on) -> pb.TrainReply:
        """One round of a plan, trained once: asked again, it is the same bytes.

        ``progress`` is told of each step; what it raises ends the round, which
        stays spent. Raises Refused.
        """
        return self._round(asked, TrainRound(progress))

    def evaluate(self, asked: pb.RoundRequest, progress: Progress = go_on) -> pb.EvaluateReply:
        """A plan's metrics on records kept for that, noised and charged.

        ``progress`` is told of each batch, as for a round. Raises Refused.
        """
        return self._round(asked, EvaluateRound(progress))

    def status(self) -> pb.StatusReply:
        """Whether the guard is at work, and on behalf of which site."""
        return pb.StatusReply(
            site=self.policy.site.name,
            version=importlib.metadata.version("dpbitfit"),
            datasets=self.policy.datasets,
            busy=self._turn.busy,
        )

    def _refuse_forgetting(self, dataset: Dataset) -> None:
        """InputError where losses of a data set lie in another account than it has now."""
        if dataset.account == dataset.name:
            return
        for account in self.ledger.accounts():
            site, name, _ = account.name
            own = name.removesuffix(":evaluation") == dataset.name
            if (
                own
                and site == self.policy.site.name
                and self.ledger.holdings([account.id])[account.id]
            ):
                raise InputError(
                    f"datasets.{dataset.name}.account: the ledger's {account.name} holds losses "
                    f"that {dataset.account!r} would not: let the others name {dataset.name!r}"
                )

    def _shares(self, account: str) -> dict[str, float]:
        """By public key, each coordinator's share of an account: the largest that is named."""
        shares: dict[str, float] = {}
        for one in self.policy.datasets.values():
            if one.account == account:
                for who, limits in one.limits.items():
                    key = self.policy.coordinators[who]
                    shares[key] = max(limits.epsilon, shares.get(key, 0.0))
        return shares

    def _open(self, name: str, part: Dataset | Evaluation, shares: Mapping[str, float]) -> Account:
        """The account of some records, with the budget that the policy says.

        What an earlier policy approved and this one's budget or a share of it does not
        hold is taken back.
        """
        account, reason = (
            AccountName(self.policy.site.name, name, part.unit),
            "the policy file says so",
        )
        found = self.ledger.open_account(account, part.delta, part.epsilon)
        if found.budget != part.epsilon:
            found = self.ledger.set_budget(account, part.epsilon, reason)
        self.ledger.enforce(account, reason)
        for coordinator, share in shares.items():
            self.ledger.enforce(account, reason, coordinator, share)
        return found

    def _known(self, plan: Plan, coordinator: str) -> Dataset:
        """The data set that is asked for, by a coordinator whom the policy knows."""
        if self.policy.coordinator(coordinator) is None:
            raise IdentityError("the policy knows no such coordinator")
        names = [plan.dataset] if plan.dataset else list(self.policy.datasets)
        if len(names) != 1 or names[0] not in self.policy.datasets:
            raise PolicyError("the plan names none of this site's data sets")
        return self.policy.datasets[names[0]]

    def _enter(self, dataset: Dataset, plan: Plan, coordinator: str) -> LoadedTask:
        """The room for a plan that is within the policy's limits."""
        self.policy.limits(dataset.name, coordinator).check(plan)
        dataset.check(plan)
        return self._rooms.enter(dataset, plan)

    def _round(self, asked: pb.RoundRequest, work: Operation[Round_co]) -> Round_co:
        """Check, charge, do the work once, answer."""
        began = time.monotonic()
        with _refusing(lambda code: pb.Refusal(code=code, key=asked.key)):
            request = Request.read(asked, work.purpose)
            dataset = self._known(request.plan, request.coordinator)
            work.part(dataset)
            account = self._accounts[work.purpose, dataset.name]
        refusing = _refusing(lambda code: self._refusal(code, account, request))
        with refusing, self._alone(began):
            room = self._enter(dataset, request.plan, request.coordinator)
            payload = self._kept(request)
            if payload is None:
                room.agree(request.plan)
                limits = self.policy.limits(dataset.name, request.coordinator)
                distance = limits.bias_distance(request.plan, dataset.declared_size)
                biases = room.biases(request.biases, distance)
                once, whole = work.steps(request.plan, dataset)
                self._approve(request, dataset, account, once, whole)
                self.ledger.reserve(request.run, request.round, {account.id: request.key}, once)
                self._heads.write(self.ledger)
                payload = self._do(work, request, dataset, account, room, biases)
            reply = work.reply(payload)
            reply.statements.CopyFrom(self._statements(dataset, room))
            reply.plan_digest, reply.round = request.plan.digest, request.round
            reply.key = request.key
            position = self._position(account, request.coordinator, request.key)
            reply.position.CopyFrom(position)
            message.sign(self.ledger.signer, reply)
        return reply

    def _kept(self, request: Request) -> bytes | None:
        """The answer that was given to this request before."""
        kept = self.ledger.reply(request.key)
        # Fresh noise for the same question would be a second release.
        if kept is not None and kept.request != request.digest:
            raise ProtocolError("this key was used for another request")
        if kept is not None and kept.payload is None:
            raise AnswerLost("a later answer of the run has taken its place")
        before = self.ledger.reservation(request.key)
        if before is not None and before.state == "void":
            raise ProtocolError("this key was given up, as this site has signed")
        if kept is None and before is not None:
            raise AnswerLost("this key was used before, and its answer is lost")
        return kept.payload if kept else None

    def _approve(
        self, request: Request, dataset: Dataset, account: Account, counts: Counts, bag: Counts
    ) -> None:
        """Make sure that a round of the plan may be spent, or refuse it; no record is touched."""
        coordinator = request.coordinator
        if self._owner(account, request.run) not in (None, coordinator):
            raise ProtocolError("the run is another coordinator's, and so is its share")
        exchange.check(self.ledger, account, request.position, coordinator, counts)
        share = self.policy.limits(dataset.name, coordinator).epsilon
        self.ledger.allot(account.name, request.run, request.plan.digest, bag, coordinator, share)

    def _do(
        self,
        work: Operation[Round_co],
        request: Request,
        dataset: Dataset,
        account: Account,
        room: LoadedTask,
        biases: NDArray[np.float32],
    ) -> bytes:
        """Do what was reserved, and keep its answer in the transaction that commits it."""
        before = self.ledger.last_reply(account, request.run)
        try:
            payload = work.do(
                request.plan, dataset, room, biases, before.payload if before else None
            )
        except BaseException:
            # Records may have been touched: whatever ended the round, it stays spent.
            with suppress(LedgerError):
                self.ledger.commit({request.key: "ended early"})
            raise
        self.ledger.commit({request.key: "reply"}, Reply(request.key, request.digest, payload))
        return payload

    @contextmanager
    def _alone(self, began: float) -> Iterator[None]:
        """One question at a time; what a killed process left reserved is settled as spent."""
        with self._turn.taken(began, WAIT_SECONDS), self.ledger.claim(WAIT_SECONDS):
            self._heads.check(self.ledger)
            self.ledger.settle("crashed")
            yield

    def _statements(self, dataset: Dataset, room: LoadedTask) -> pb.Statements:
        return pb.Statements(
            site=self.policy.site.name,
            dataset=dataset.account,  # so that its coordinator keeps one account as well
            unit=dataset.unit,
            declared_size=dataset.declared_size,
            layout_digest=room.task.layout.digest,
            model_digest=room.task.digest,
            parameters=room.task.layout.size,
            version=importlib.metadata.version("dpbitfit"),
        )

    def _rounds_left(self, account: Account, run: str, coordinator: str) -> int:
        runs = status.run_standings(self.ledger, account)
        known = {(one.run, one.coordinator): one.rounds_left for one in runs}
        left = known.get((run, coordinator))
        return -1 if left is None else left

    def _owner(self, account: Account, run: str) -> str | None:
        """The coordinator for whom a run was approved."""
        runs = status.run_standings(self.ledger, account)
        return next((one.coordinator for one in runs if one.run == run), None)

    def _compare(self, account: Account, asked: pb.DescribeRequest) -> None:
        """Hear where the coordinator's ledger stands, and that it does not agree with this one."""
        mine = self._position(account, asked.coordinator, "")
        theirs = read_position(asked.position, mine.head)  # an old one is for another head
        if theirs.ledger != asked.coordinator:
            raise IdentityError("the position is that of another ledger")
        exchange.check(self.ledger, account, theirs, asked.coordinator)

    def _position(self, account: Account, coordinator: str, key: str) -> pb.SignedHead:
        stands = exchange.position(self.ledger, account, coordinator, coordinator, key)
        said: dict[str, Any] = stands.to_config(self.ledger)
        return pb.SignedHead(**said)

    def _refusal(self, code: str, account: Account, request: Request) -> pb.Refusal:
        """A refusal, with the site's promise that the key touched no data where that is so."""
        refusal = pb.Refusal(code=code, key=request.key)
        with suppress(LedgerError):
            void = (account.name, request.run, request.round, request.key, request.coordinator)
            if self.ledger.void_key(*void):
                said = payloads.untouched(request.key)
                refusal.untouched = self.ledger.signer.sign("untouched", said)
            refusal.position.CopyFrom(self._position(account, request.coordinator, request.key))
        return refusal


@contextmanager
def _refusing(refusal: Callable[[str], pb.Refusal]) -> Iterator[None]:
    """Turn whatever goes wrong into a refusal: its text may quote a record, its code cannot."""
    try:
        yield
    except Refused:
        raise
    except DpbitfitError as error:
        told = isinstance(error, (PolicyError, LedgerError))  # for the site's own log
        reason = str(error) if told else ""
        raise Refused(refusal(error.code), reason) from error
    except Exception as error:
        raise Refused(refusal("internal")) from error


def _offer(dataset: Dataset) -> pb.EvaluationOffer | None:
    """What a coordinator may have measured."""
    kept = dataset.evaluation
    if kept is None:
        return None
    return pb.EvaluationOffer(
        dataset=dataset.evaluation_name,
        unit=kept.unit,
        declared_size=kept.declared_size,
        delta=kept.delta,
        epsilon=kept.epsilon,
        metrics=[pb.Metric(name=name, noise_multiplier=n) for name, n in kept.metrics.items()],
    )
