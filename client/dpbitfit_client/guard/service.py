"""The guard as a gRPC service: deadlines, status codes, cancellation, and equal reply times.

Beyond messages it gives away one thing, the time of its replies, which the guard
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
from pathlib import Path
from typing import NoReturn, TypeVar

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
    LedgerError,
    ModelError,
    PolicyError,
    ProtocolError,
)
from dpbitfit.tasks.text_classification import Progress
from dpbitfit_client.generated import guard_pb2 as pb
from dpbitfit_client.generated.guard_pb2_grpc import GuardServicer, add_GuardServicer_to_server
from dpbitfit_client.guard.guard import Guard
from dpbitfit_client.guard.peer_credentials import PeerCredentialProxy
from dpbitfit_client.guard_client import MOST_BYTES, REFUSAL
from dpbitfit_client.message import Refused
from dpbitfit_client.policy.policy import Policy

log = logging.getLogger("dpbitfit.guard")

SERVICE = "dpbitfit.guard.v1.Guard"
WORKERS = 8
LONGEST_SECONDS = 1e9  # of a deadline; gRPC gives a call without one hundreds of millennia
MOST_WAITING = 4  # calls that work or wait for their turn; the others keep the guard's ear open

STATUS = {
    BudgetError.code: grpc.StatusCode.RESOURCE_EXHAUSTED,
    InputError.code: grpc.StatusCode.INVALID_ARGUMENT,
    ModelError.code: grpc.StatusCode.FAILED_PRECONDITION,
    AccountingError.code: grpc.StatusCode.INVALID_ARGUMENT,
    LedgerError.code: grpc.StatusCode.FAILED_PRECONDITION,
    LedgerBusy.code: grpc.StatusCode.ABORTED,
    ProtocolError.code: grpc.StatusCode.FAILED_PRECONDITION,
    PolicyError.code: grpc.StatusCode.FAILED_PRECONDITION,
    AnswerLost.code: grpc.StatusCode.DATA_LOSS,
    IdentityError.code: grpc.StatusCode.UNAUTHENTICATED,
}

Answer = TypeVar("Answer")


class Cancelled(DpbitfitError):
    """Whoever asked is gone, or the time that the policy gives is over."""

    code = "cancelled"


class Service(GuardServicer):
    """Puts the guard's answers and refusals into gRPC's terms."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._site = guard.policy.site
        self._waiting = threading.BoundedSemaphore(MOST_WAITING)

    def Describe(
        self, asked: pb.DescribeRequest, context: grpc.ServicerContext
    ) -> pb.DescribeReply:
        """What the site is."""
        return self._answered(context, lambda: self._guard.describe(asked))

    def Train(self, asked: pb.RoundRequest, context: grpc.ServicerContext) -> pb.TrainReply:
        """One round of a plan."""
        go_on = self._patience(context)
        return self._answered(context, lambda: self._guard.train(asked, go_on))

    def Evaluate(self, asked: pb.RoundRequest, context: grpc.ServicerContext) -> pb.EvaluateReply:
        """One measurement."""
        go_on = self._patience(context)
        return self._answered(context, lambda: self._guard.evaluate(asked, go_on))

    def Status(self, asked: pb.StatusRequest, context: grpc.ServicerContext) -> pb.StatusReply:
        """Whether the guard is at work."""
        return self._guard.status()

    def _patience(self, context: grpc.ServicerContext) -> Progress:
        """Progress that ends what nobody waits for, or what takes longer than the policy says."""
        last = time.monotonic() + self._site.round_seconds

        def go_on(_done: int, _of: int) -> None:
            if not context.is_active() or time.monotonic() > last:
                raise Cancelled("nobody waits for this")

        return go_on

    def _answered(self, context: grpc.ServicerContext, work: Callable[[], Answer]) -> Answer:
        if (context.time_remaining() or math.inf) > LONGEST_SECONDS:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no-deadline")
        if not self._waiting.acquire(blocking=False):
            context.abort(grpc.StatusCode.ABORTED, LedgerBusy.code)
        try:
            return work()
        except Refused as refused:
            refusal, said = refused.refusal, str(refused)
        except Exception:  # gRPC would tell its text to whoever asked, and to the log
            refusal, said = pb.Refusal(code="internal"), "internal"
        finally:
            self._waiting.release()
        log.warning("refused: %s", said)
        return _abort(context, refusal)


class Health(HealthServicer):  # type: ignore[misc]
    """The standard health service, asked and not watched: a watcher would never leave."""

    def Watch(self, request: object, context: grpc.ServicerContext, *_: object) -> NoReturn:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "ask with Check")


def _abort(context: grpc.ServicerContext, refusal: pb.Refusal) -> NoReturn:
    status = STATUS.get(refusal.code, grpc.StatusCode.INTERNAL)
    if refusal.code == Cancelled.code:
        status = grpc.StatusCode.CANCELLED
    context.set_trailing_metadata(((REFUSAL, refusal.SerializeToString()),))
    context.abort(status, refusal.code)


@contextmanager
def serving(policy: Policy) -> Iterator[Guard]:
    """Serve a policy's guard on its socket until the block ends.

    Rounds that are still trained then are ended, and stay spent. Raises InputError
    or LedgerError where the policy cannot be served, or a record not be used.
    """
    logging.getLogger("grpc").setLevel(logging.CRITICAL)  # it would log what a caller makes fail
    guard = Guard(policy)
    with tempfile.TemporaryDirectory(prefix="dpbitfit-guard-") as folder:  # this user's alone
        behind = Path(folder) / "inner.sock"
        server = grpc.server(
            ThreadPoolExecutor(WORKERS, thread_name_prefix="guard"),
            maximum_concurrent_rpcs=2 * WORKERS,  # each may hold a message in memory
            options=_options(),
        )
        add_GuardServicer_to_server(Service(guard), server)  # type: ignore[no-untyped-call]
        health = Health()
        health.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        server.add_insecure_port(f"unix:{behind}")
        server.start()
        try:
            door = PeerCredentialProxy(policy.site.socket, policy.site.group, behind)
            try:
                yield guard
            finally:
                health.enter_graceful_shutdown()
                guard.close()
                door.close()
        finally:
            server.stop(grace=None).wait()


def _options() -> Sequence[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", MOST_BYTES),
        ("grpc.max_send_message_length", MOST_BYTES),
        ("grpc.max_metadata_size", 1 << 14),
        ("grpc.max_connection_idle_ms", 300_000),  # a relay comes again when it has a question
    ]
