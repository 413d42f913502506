"""The client of the guard that owns the records: a local socket, or this very process.

A relay holds nothing and decides nothing. It needs neither torch nor
transformers, and the files of the site are closed to the user that runs it.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

import grpc

from dpbitfit.errors import DpbitfitError, GuardUnavailable, InputError
from dpbitfit.protocol.envelope import Envelope
from dpbitfit_client.generated import guard_pb2 as pb
from dpbitfit_client.generated.guard_pb2_grpc import GuardStub
from dpbitfit_client.message import Refused, from_proto, to_proto

MOST_BYTES = 64 << 20  # of a message, either way
REFUSAL = "dpbitfit-refusal-bin"  # trailing metadata
MOST_REFUSAL_BYTES = 1 << 16
DESCRIBE_SECONDS = 900.0  # the first question loads the model

Config = Mapping[str, Any]


class GuardClient(Protocol):
    """A site's guard, wherever it is. Each call raises Refused or GuardUnavailable."""

    def describe(self, request: Envelope) -> Envelope:
        """The site's description."""

    def train(self, request: Envelope) -> Envelope:
        """One round of a plan."""

    def evaluate(self, request: Envelope) -> Envelope:
        """One measurement."""


class SocketGuardClient:
    """The guard behind a Unix socket. ``seconds`` is how long a round may take."""

    def __init__(self, socket: str, seconds: float) -> None:
        limits = [
            ("grpc.max_receive_message_length", MOST_BYTES),
            ("grpc.max_send_message_length", MOST_BYTES),
            ("grpc.max_metadata_size", MOST_REFUSAL_BYTES),
        ]
        self._channel = grpc.insecure_channel(f"unix:{socket}", options=limits)
        self._stub: Any = GuardStub(self._channel)  # type: ignore[no-untyped-call]
        self._seconds = seconds

    def describe(self, request: Envelope) -> Envelope:
        """The site's description."""
        return from_proto(_call(self._stub.Describe, to_proto(request), DESCRIBE_SECONDS))

    def train(self, request: Envelope) -> Envelope:
        """One round of a plan."""
        return from_proto(_call(self._stub.Train, to_proto(request), self._seconds))

    def evaluate(self, request: Envelope) -> Envelope:
        """One measurement."""
        return from_proto(_call(self._stub.Evaluate, to_proto(request), self._seconds))

    def status(self, seconds: float = 5.0) -> pb.StatusReply:
        """Whether the guard is at work."""
        status: pb.StatusReply = _call(self._stub.Status, pb.StatusRequest(), seconds)
        return status


# A process that Flower keeps alive between messages, as in a simulation, keeps its guards warm.
_guards: dict[str, GuardClient] = {}


def guard_of(run: Config, node: Config) -> GuardClient:
    """The guard of a node: behind the socket that the node names, or a simulated one here."""
    if "guard" in node:
        return SocketGuardClient(
            str(node["guard"]).removeprefix("unix:"), float(run["round-timeout"])
        )
    if "partition-id" not in node:
        raise InputError("the node's configuration lacks 'guard', the path of the guard's socket")
    name = json.dumps([dict(run), dict(node)], sort_keys=True)
    if name not in _guards:
        from dpbitfit_client.simulated import simulated_guard

        _guards[name] = simulated_guard(run, node)
    return _guards[name]


def _call(method: Callable[..., Any], request: Any, seconds: float) -> Any:
    try:
        return method(request, timeout=seconds)
    except grpc.RpcError as error:
        raise _reason(cast(grpc.Call, error)) from error


def _reason(call: grpc.Call) -> DpbitfitError:
    """Refused, with the guard's own statement, or GuardUnavailable where there is none."""
    statement = dict(call.trailing_metadata() or ()).get(REFUSAL)
    if isinstance(statement, bytes):
        return Refused(statement, str(call.details()))
    return GuardUnavailable("the guard does not answer")
