"""The way to the guard that owns the records: a local socket, or this very process.

A relay holds nothing and decides nothing. It needs neither torch nor
transformers, and the files of the site are closed to the user that runs it.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

import grpc

from dpbitfit.errors import DpbitfitError, GuardUnavailable, InputError
from dpbitfit_client.generated import guard_pb2 as pb
from dpbitfit_client.generated.guard_pb2_grpc import GuardStub
from dpbitfit_client.message import Refused

MOST_BYTES = 64 << 20  # of a message, either way
REFUSAL = "dpbitfit-refusal-bin"  # trailing metadata
DESCRIBE_SECONDS = 900.0  # the first question loads the model

Config = Mapping[str, Any]


class GuardClient(Protocol):
    """What a guard answers, wherever it is. Each call raises Refused or GuardUnavailable."""

    def describe(self, asked: pb.DescribeRequest) -> pb.DescribeReply:
        """What the site is."""

    def train(self, asked: pb.RoundRequest) -> pb.TrainReply:
        """One round of a plan."""

    def evaluate(self, asked: pb.RoundRequest) -> pb.EvaluateReply:
        """One measurement."""


class SocketGuardClient:
    """The guard behind a Unix socket. ``seconds`` is how long a round may take."""

    def __init__(self, socket: str, seconds: float) -> None:
        limits = [
            ("grpc.max_receive_message_length", MOST_BYTES),
            ("grpc.max_send_message_length", MOST_BYTES),
        ]
        self._channel = grpc.insecure_channel(f"unix:{socket}", options=limits)
        self._stub: Any = GuardStub(self._channel)  # type: ignore[no-untyped-call]
        self._seconds = seconds

    def describe(self, asked: pb.DescribeRequest) -> pb.DescribeReply:
        """What the site is."""
        reply: pb.DescribeReply = _answered(self._stub.Describe, asked, DESCRIBE_SECONDS)
        return reply

    def train(self, asked: pb.RoundRequest) -> pb.TrainReply:
        """One round of a plan."""
        reply: pb.TrainReply = _answered(self._stub.Train, asked, self._seconds)
        return reply

    def evaluate(self, asked: pb.RoundRequest) -> pb.EvaluateReply:
        """One measurement."""
        reply: pb.EvaluateReply = _answered(self._stub.Evaluate, asked, self._seconds)
        return reply

    def status(self, seconds: float = 5.0) -> pb.StatusReply:
        """Whether the guard is at work."""
        reply: pb.StatusReply = _answered(self._stub.Status, pb.StatusRequest(), seconds)
        return reply


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


def _answered(call: Callable[..., Any], asked: Any, seconds: float) -> Any:
    try:
        return call(asked, timeout=seconds)
    except grpc.RpcError as error:
        raise _reason(cast(grpc.Call, error)) from error


def _reason(failed: grpc.Call) -> DpbitfitError:
    """Refused with all that the guard said, or that it did not answer at all."""
    trailing = dict(failed.trailing_metadata() or ())
    said = trailing.get(REFUSAL)
    if isinstance(said, bytes):
        return Refused(pb.Refusal.FromString(said))
    return GuardUnavailable("the guard does not answer")
