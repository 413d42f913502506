"""The one object that touches a site's records. It answers what the site's policy allows.

    signed by somebody the policy knows -> within the policy's limits -> asked before?
        -> the ledgers agree -> the plan fits the share and the budget -> reserved, durably
        -> trained -> answer and commit in one transaction -> signed

Whoever carries the messages is not trusted: not the coordinator, and not Flower's
process beside it. A refusal says a fixed code, and where no record was touched
the site's signature that this is so.
"""

import importlib.metadata
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from dpbitfit import codec, statements
from dpbitfit.errors import AnswerLost, DpbitfitError, IdentityError, LedgerError, ProtocolError
from dpbitfit.ledger import Account, Ledger, Name, exchange, figures
from dpbitfit.ledger.outbox import Reply
from dpbitfit.plan import Plan
from dpbitfit.tables import Examples, read_examples, read_labels
from dpbitfit.training import train_round
from dpbitfit_client import answer, message
from dpbitfit_client.generated import guard_pb2 as pb
from dpbitfit_client.message import Refused
from dpbitfit_client.policy import Dataset, Policy
from dpbitfit_client.request import Request, read_question
from dpbitfit_client.room import Room, Rooms

WAIT_SECONDS = 600  # for a round that this process or another one of the site still trains

Progress = Callable[[int, int], None]


def read_dataset(dataset: Dataset) -> Examples:
    """A data set's records as the policy names them; InputError where they are unusable."""
    columns = (dataset.text_column, dataset.label_column, read_labels(dataset.labels))
    return read_examples(dataset.source, *columns, dataset.unit_column)


class Guard:
    """A site's policy and ledger, and the rooms in which its records are trained on."""

    def __init__(
        self, policy: Policy, examples: Callable[[Dataset], Examples] = read_dataset
    ) -> None:
        self.policy = policy
        self.ledger = Ledger(policy.site.ledger, create=True)
        self._accounts = {name: self._open(one) for name, one in policy.datasets.items()}
        self._rooms = Rooms(policy.folder, examples)
        self._turn = threading.Lock()

    def describe(self, asked: pb.DescribeRequest) -> pb.DescribeReply:
        """What this site is, for a plan: public constants only. Raises Refused."""
        with _refusing(lambda code: pb.Refusal(code=code)):
            plan = read_question(asked)
            dataset = self._known(plan, asked.coordinator)
            with self._alone():
                room = self._enter(dataset, plan, asked.coordinator)
            account = self._accounts[dataset.name]
            reply = pb.DescribeReply(
                statements=self._statements(dataset, room),
                labels=room.task.labels,
                rounds_left=self._rounds_left(account, asked.run),
                position=self._position(account, asked.coordinator, ""),
            )
            message.sign(self.ledger.signer, reply)
        return reply

    def train(
        self, asked: pb.RoundRequest, progress: Progress = lambda done, of: None
    ) -> pb.TrainReply:
        """One round of a plan, trained once: asked again, it is the same bytes.

        ``progress`` is told of each step; what it raises ends the round, which
        stays spent. Raises Refused.
        """
        with _refusing(lambda code: pb.Refusal(code=code, key=asked.key)):
            request = Request.read(asked, "train")
            dataset = self._known(request.plan, request.coordinator)
            account = self._accounts[dataset.name]
        with _refusing(lambda code: self._refusal(code, account, request)), self._alone():
            room = self._enter(dataset, request.plan, request.coordinator)
            payload = self._answer(request, dataset, account, room, progress)
            reply = pb.TrainReply(
                statements=self._statements(dataset, room),
                plan_digest=request.plan.digest,
                round=request.round,
                key=request.key,
                update=answer.change_of(payload).astype("<f4").tobytes(),
                position=self._position(account, request.coordinator, request.key),
            )
            message.sign(self.ledger.signer, reply)
        return reply

    def status(self) -> pb.StatusReply:
        """Whether the guard is at work, and on behalf of which site."""
        return pb.StatusReply(
            site=self.policy.site.name,
            version=importlib.metadata.version("dpbitfit"),
            datasets=self.policy.datasets,
            busy=self._turn.locked(),
        )

    def _open(self, dataset: Dataset) -> Account:
        """A data set's account, with the budget that the policy says."""
        name = Name(self.policy.site.name, dataset.name, dataset.unit)
        account = self.ledger.open_account(name, dataset.delta, dataset.epsilon)
        if account.budget != dataset.epsilon:
            account = self.ledger.set_budget(name, dataset.epsilon, "the policy file says so")
        return account

    def _known(self, plan: Plan, coordinator: str) -> Dataset:
        """The data set that is asked for, by a coordinator whom the policy knows."""
        if self.policy.coordinator(coordinator) is None:
            raise IdentityError("the policy knows no such coordinator")
        names = [plan.dataset] if plan.dataset else list(self.policy.datasets)
        if len(names) != 1 or names[0] not in self.policy.datasets:
            raise ProtocolError("the plan names none of this site's data sets")
        return self.policy.datasets[names[0]]

    def _enter(self, dataset: Dataset, plan: Plan, coordinator: str) -> Room:
        """The room for a plan that is within the policy's limits."""
        self.policy.limits(dataset.name, coordinator).check(plan)
        dataset.check(plan)
        return self._rooms.enter(dataset, plan)

    def _answer(
        self,
        request: Request,
        dataset: Dataset,
        account: Account,
        room: Room,
        progress: Progress,
    ) -> bytes:
        """The answer that is kept, or else the round trained and its answer kept."""
        kept = self.ledger.reply(request.key)
        if kept is not None:
            # Fresh noise for the same question would be a second release.
            if kept.request != request.digest or kept.payload is None:
                raise ProtocolError("this key was used for another request")
            return kept.payload
        room.agree(request.plan)
        biases = codec.vector(request.biases, room.task.layout.size)
        self._reserve(request, dataset, account)
        before = self.ledger.last_reply(account, request.run)
        try:
            change, state = train_round(
                room.task.model,
                room.task.layout,
                room.records,
                request.plan,
                dataset.declared_size,
                biases,
                answer.state_of(before.payload if before else None),
                progress=progress,
            )
        except BaseException:
            # Records may have been touched: whatever ended the round, it stays spent.
            with suppress(LedgerError):
                self.ledger.commit({request.key: "ended early"})
            raise
        payload = answer.pack(change, state)
        self.ledger.commit(
            {request.key: "reply"}, Reply(request.key, request.digest, payload)
        )
        return payload

    def _reserve(self, request: Request, dataset: Dataset, account: Account) -> None:
        """Reserve one round of the plan, durably, or refuse it; no record is touched."""
        plan, coordinator = request.plan, request.coordinator
        counts, bag = plan.counts(plan.steps_per_round), plan.counts(plan.steps)
        exchange.check(self.ledger, account, request.position, coordinator, counts)
        share = self.policy.limits(dataset.name, coordinator).epsilon
        self.ledger.allot(account.name, request.run, plan.digest, bag, coordinator, share)
        before = self.ledger.reservation(request.key)
        if before is not None and before.state == "void":
            raise ProtocolError("this key was given up, as this site has signed")
        if before is not None:
            raise AnswerLost("this key was used before, and its answer is lost")
        self.ledger.reserve(request.run, request.round, {account.id: request.key}, counts)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One question at a time; what a killed process left reserved is settled as spent."""
        if not self._turn.acquire(timeout=WAIT_SECONDS):
            raise LedgerError("another round of this site still trains")
        try:
            with self.ledger.claim(WAIT_SECONDS):
                self.ledger.settle("crashed")
                yield
        finally:
            self._turn.release()

    def _statements(self, dataset: Dataset, room: Room) -> pb.Statements:
        return pb.Statements(
            site=self.policy.site.name,
            dataset=dataset.name,
            unit=dataset.unit,
            declared_size=dataset.declared_size,
            layout_digest=room.task.layout.digest,
            model_digest=room.task.digest,
            parameters=room.task.layout.size,
            version=importlib.metadata.version("dpbitfit"),
        )

    def _rounds_left(self, account: Account, run: str) -> int:
        known = {one.run: one.rounds_left for one in figures.run_standings(self.ledger, account)}
        left = known.get(run)
        return -1 if left is None else left

    def _position(self, account: Account, coordinator: str, key: str) -> pb.Position:
        stands = exchange.position(self.ledger, account, coordinator, coordinator, key)
        return pb.Position(**stands.to_config(self.ledger))

    def _refusal(self, code: str, account: Account, request: Request) -> pb.Refusal:
        """A refusal, with the site's promise that the key touched no data where that is so."""
        refusal = pb.Refusal(code=code, key=request.key)
        with suppress(LedgerError):
            if self.ledger.void_key(account.name, request.run, request.round, request.key):
                said = statements.untouched(request.key)
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
        raise Refused(refusal(error.code)) from error
    except Exception as error:
        raise Refused(refusal("internal")) from error
