"""One process of a message, for tests.benchmarks.guard: it imports what Flower's would."""

import sys
from pathlib import Path

import dpbitfit_client.app  # noqa: F401  which a process of Flower's imports before all else
from dpbitfit_client.generated import guard_pb2 as pb
from dpbitfit_client.guard_client import GuardClient, SocketGuardClient
from dpbitfit_client.message import from_proto


def peer(policy: str) -> GuardClient:
    """The guard in this process, with all that it needs loaded anew."""
    from dpbitfit_client.guard.guard import Guard
    from dpbitfit_client.policy.policy import Policy

    return Guard(Policy.read(Path(policy)))


if __name__ == "__main__":
    kind, where, request = sys.argv[1:]
    guard = SocketGuardClient(where, 600) if kind == "relay" else peer(where)
    guard.train(from_proto(pb.Envelope.FromString(Path(request).read_bytes())))
