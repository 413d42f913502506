"""The guard as a gRPC service: deadlines, status codes, cancellation, and equal reply times.

Beyond messages it reveals one thing, the time of its replies, which the guard
holds back to the policy's slots. Its log holds codes, and what of a
plan the policy does not allow.
"""

import logging
import math
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NoReturn

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import HealthServicer

from dpbitfit.errors import (
    AccountingError,
    AnswerLost,
    BudgetError,
    DpbitfitError,
    IdentityError,
    InputError,
    LedgerBusy,
    LedgerDrift,
    LedgerError,
    ModelError,
    PolicyError,
    ProtocolError,
    RoundFailed,
    WorkerError,
)
from dpbitfit.protocol.envelope import Envelope
from dpbitfit.protocol.messages import Refusal
from dpbitfit.tasks.base import Progress, Task, TaskSettings
from dpbitfit_client.doctor import needs, refuse_to_start, trainings, warnings
from dpbitfit_client.generated import guard_pb2 as pb
from dpbitfit_client.generated.guard_pb2_grpc import GuardServicer, add_GuardServicer_to_server
from dpbitfit_client.guard.guard import Guard
from dpbitfit_client.guard.peer_credentials import PeerCredentialProxy, refuse_second
from dpbitfit_client.guard_client import MOST_BYTES, REFUSAL
from dpbitfit_client.message import Refused, from_proto, to_proto
from dpbitfit_client.policy.policy import Dataset, Policy

log = logging.getLogger("dpbitfit.guard")

SERVICE = "dpbitfit.guard.v1.Guard"
WORKERS = 8
LONGEST_SECONDS = 1e9  # of a deadline; gRPC gives a call without one hundreds of millennia
MOST_WAITING = 4  # calls that work or wait for their turn; the other workers stay free

STATUS = {
    BudgetError.code: grpc.StatusCode.RESOURCE_EXHAUSTED,
    InputError.code: grpc.StatusCode.INVALID_ARGUMENT,
    ModelError.code: grpc.StatusCode.FAILED_PRECONDITION,
    WorkerError.code: grpc.StatusCode.ABORTED,
    AccountingError.code: grpc.StatusCode.INVALID_ARGUMENT,
    LedgerError.code: grpc.StatusCode.FAILED_PRECONDITION,
    LedgerBusy.code: grpc.StatusCode.ABORTED,
    LedgerDrift.code: grpc.StatusCode.FAILED_PRECONDITION,
    ProtocolError.code: grpc.StatusCode.FAILED_PRECONDITION,
    PolicyError.code: grpc.StatusCode.FAILED_PRECONDITION,
    RoundFailed.code: grpc.StatusCode.ABORTED,
    AnswerLost.code: grpc.StatusCode.DATA_LOSS,
    IdentityError.code: grpc.StatusCode.UNAUTHENTICATED,
}


class Cancelled(DpbitfitError):
    """The caller is gone, or the time that the policy allows is over."""

    code = "cancelled"


class Service(GuardServicer):
    """Puts the guard's replies and refusals into gRPC's terms."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._site = guard.policy.site
        self._waiting = threading.BoundedSemaphore(MOST_WAITING)

    def Describe(self, request: pb.Envelope, context: grpc.ServicerContext) -> pb.Envelope:
        """The site's description."""
        return self._answer(request, context, self._guard.describe)

    def Train(self, request: pb.Envelope, context: grpc.ServicerContext) -> pb.Envelope:
        """One round of a plan."""
        progress = self._deadline(context)
        return self._answer(request, context, lambda sent: self._guard.train(sent, progress))

    def Evaluate(self, request: pb.Envelope, context: grpc.ServicerContext) -> pb.Envelope:
        """One measurement."""
        progress = self._deadline(context)
        return self._answer(request, context, lambda sent: self._guard.evaluate(sent, progress))

    def Status(self, request: pb.StatusRequest, context: grpc.ServicerContext) -> pb.StatusReply:
        """Whether the guard is at work."""
        return self._guard.status()

    def _deadline(self, context: grpc.ServicerContext) -> Progress:
        """Progress that ends a call when its caller is gone or the policy's time is over."""
        last = time.monotonic() + self._site.round_seconds

        def go_on(_done: int, _of: int) -> None:
            if not context.is_active() or time.monotonic() > last:
                raise Cancelled("the caller is gone, or the time is over")

        return go_on

    def _answer(
        self,
        request: pb.Envelope,
        context: grpc.ServicerContext,
        work: Callable[[Envelope], Envelope],
    ) -> pb.Envelope:
        if (context.time_remaining() or math.inf) > LONGEST_SECONDS:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no-deadline")
        if not self._waiting.acquire(blocking=False):
            context.abort(grpc.StatusCode.ABORTED, LedgerBusy.code)
        try:
            return to_proto(work(from_proto(request)))
        except Refused as refused:
            refusal = refused
        except Exception:  # gRPC would send its text to the caller, and log it
            refusal = Refused(Refusal(code="internal").encode(), "internal")
        finally:
            self._waiting.release()
        log.warning("refused: %s", refusal)
        return _abort(context, refusal)


class Health(HealthServicer):  # type: ignore[misc]
    """The standard health service, without Watch: a watcher would never leave."""

    def Watch(self, request: object, context: grpc.ServicerContext, *_: object) -> NoReturn:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "use Check")


def _abort(context: grpc.ServicerContext, refused: Refused) -> NoReturn:
    status = STATUS.get(refused.code, grpc.StatusCode.INTERNAL)
    if refused.code == Cancelled.code:
        status = grpc.StatusCode.CANCELLED
    context.set_trailing_metadata(((REFUSAL, refused.statement),))
    context.abort(status, refused.code)


def _load(
    guard: Guard, dataset: Dataset, model: str, settings: TaskSettings, needs_gradients: bool
) -> Task:
    """The checked task; what a site's own makes of the records is seen before anything is asked."""
    loaded = guard.tasks.load(dataset, model, settings, needs_gradients)
    for part in dataset.parts if dataset.task in guard.policy.tasks else ():
        loaded.records(part)
    return loaded.task


@contextmanager
def serving(policy: Policy) -> Iterator[Guard]:
    """Serve a policy's guard on its socket until the block ends.

    Rounds that are still trained then are ended, and stay spent. Raises DpbitfitError, in the
    doctor's words, where the policy cannot be served, a record not be used, or a model not be
    trained. The models that were checked last stay loaded.
    """
    logging.getLogger("grpc").setLevel(logging.CRITICAL)  # it would log what a caller makes fail
    refuse_second(policy.site.socket)  # before this policy's budgets are the ledger's
    refuse_to_start(needs(policy))
    guard = Guard(policy)
    refuse_to_start(trainings(policy, partial(_load, guard)))
    for warning in warnings(policy):
        log.warning("%s", warning)
    with tempfile.TemporaryDirectory(prefix="dpbitfit-guard-") as folder:  # this user's alone
        inner = Path(folder) / "inner.sock"
        server = grpc.server(
            ThreadPoolExecutor(WORKERS, thread_name_prefix="guard"),
            maximum_concurrent_rpcs=2 * WORKERS,  # each may hold a message in memory
            options=_options(),
        )
        add_GuardServicer_to_server(Service(guard), server)  # type: ignore[no-untyped-call]
        health = Health()
        health.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        server.add_insecure_port(f"unix:{inner}")
        server.start()
        try:
            proxy = PeerCredentialProxy(policy.site.socket, policy.site.group, inner)
            try:
                yield guard
            finally:
                health.enter_graceful_shutdown()
                guard.close()
                proxy.close()
        finally:
            server.stop(grace=None).wait()


def _options() -> Sequence[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", MOST_BYTES),
        ("grpc.max_send_message_length", MOST_BYTES),
        ("grpc.max_metadata_size", 1 << 14),
        ("grpc.max_connection_idle_ms", 300_000),  # a relay comes again when it has a question
    ]
