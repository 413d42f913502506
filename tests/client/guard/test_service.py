"""The guard as a process: deadlines, statuses, cancellation, slots, and ends of every kind."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from dpbitfit_client.app import app
from dpbitfit_client.generated import guard_pb2 as pb
from dpbitfit_client.generated.guard_pb2_grpc import GuardStub
from dpbitfit_client.guard.guard import Guard
from dpbitfit_client.guard.service import SERVICE, Service
from dpbitfit_client.message import Refused, to_proto
from dpbitfit_client.policy.policy import Policy
from flwr.app import Context, Message, RecordDict
from grpc_health.v1 import health_pb2, health_pb2_grpc

from dpbitfit.protocol.envelope import Envelope
from dpbitfit.protocol.flower import pack, unpack
from dpbitfit.protocol.messages import Refusal

from ...support import plans
from ...support.sites import LONG, SECONDS, Site, begin, fresh_key, key_of, made, served

SLOT = ("site", "reply-slot-seconds")


@pytest.fixture(scope="module")
def site(corpus: Path) -> Iterator[Site]:
    with served(corpus) as site:
        yield site


@pytest.fixture
def mortal(corpus: Path) -> Iterator[Site]:
    """A site whose guard is killed."""
    with served(corpus) as site:
        yield site


def until(true: Callable[[], object]) -> None:
    last = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < last
        time.sleep(0.05)


def caller(site: Site) -> Any:
    return GuardStub(grpc.insecure_channel(f"unix:{site.socket}"))  # type: ignore[no-untyped-call]


def begun(site: Site, request: Envelope) -> "grpc.Future":
    """A call that is at work on records by now."""
    call: grpc.Future = caller(site).Train.future(to_proto(request), timeout=SECONDS)
    until(lambda: site.outcome(key_of(request))[0] == "reserved" or call.done())
    assert not call.done()
    return call


def test_health_is_the_standard_service(site: Site) -> None:
    with grpc.insecure_channel(f"unix:{site.socket}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", SERVICE):
            request = health_pb2.HealthCheckRequest(service=name)
            assert stub.Check(request, timeout=SECONDS).status == 1


def test_status_tells_names_and_nothing_of_records(site: Site) -> None:
    words = site.relay().status()
    assert list(words.datasets) == ["letters"]
    assert {field.name for field, _ in words.ListFields()} <= {
        "site",
        "version",
        "datasets",
        "busy",
    }


def test_a_cancelled_round_stops_and_stays_spent(site: Site) -> None:
    site.train()
    site.office.run = "cancelled"
    request = site.request(site.plan(LONG))
    call = begun(site, request)
    assert site.relay().status().busy
    call.cancel()
    until(lambda: site.outcome(key_of(request))[0] == "committed")
    assert site.outcome(key_of(request)) == ("committed", "ended early")
    with pytest.raises(Refused, match="answer-lost"):
        site.relay().train(request)
    assert site.spent()["reserved"] == 0
    site.office.run = "run-1"
    assert site.train().content


def test_a_deadline_that_passes_stops_a_round(site: Site) -> None:
    site.office.run = "late"
    request = site.request(site.plan(LONG))
    with pytest.raises(grpc.RpcError, match="DEADLINE"):
        caller(site).Train(to_proto(request), timeout=2.0)
    site.office.run = "run-1"
    assert site.train().content  # it has its turn, so the other has ended
    assert site.outcome(key_of(request)) in (("committed", "ended early"), ("void", ""), ("", ""))


def test_a_round_works_no_longer_than_the_policy_says(corpus: Path) -> None:
    """Though the caller would wait longer."""
    with served(corpus, (("site", "round-seconds"), 1)) as site:
        key = fresh_key()
        assert site.refused(site.plan(LONG), key=key).code in ("cancelled", "round-failed")
        assert site.outcome(key) in (("committed", "ended early"), ("void", ""))


def test_of_many_that_wait_some_are_turned_away_at_once(site: Site) -> None:
    site.office.run = "crowd"
    call = begun(site, site.request(site.plan(LONG)))
    stub, question = caller(site), to_proto(site.office.question(site.plan()))
    waiting = [stub.Describe.future(question, timeout=SECONDS) for _ in range(8)]
    until(lambda: sum(one.done() for one in waiting) >= 5)
    assert {one.code() for one in waiting if one.done()} == {grpc.StatusCode.ABORTED}
    assert site.relay().status().busy
    call.cancel()
    until(lambda: all(one.done() for one in waiting))
    assert sum(one.code() is grpc.StatusCode.OK for one in waiting) == 3
    site.office.run = "run-1"


def relayed(site: Site, request: Envelope) -> Envelope:
    """What Flower's own process gets from the relay."""
    context = Context(
        run_id=1,
        node_id=2,
        node_config={"guard": f"unix:{site.socket}"},
        state=RecordDict(),
        run_config={"round-timeout": SECONDS},
    )
    message = Message(pack(request), dst_node_id=2, message_type="train")
    return unpack(app(message, context).content)


def test_a_guard_that_is_killed_in_a_round_has_spent_it(mortal: Site) -> None:
    """Afterwards: a fixed code while it is gone; a new one on the old socket; never fresh noise."""
    site = mortal
    kept = site.request(site.plan())
    before = site.relay().train(kept)
    site.office.run = "killed"
    lost = site.request(site.plan(LONG))
    call = begun(site, lost)
    site.end(signal.SIGKILL)
    until(call.done)
    assert call.code() is grpc.StatusCode.UNAVAILABLE
    assert site.socket.is_socket()  # it was not taken away
    request = site.request(site.plan())
    unavailable = Envelope(Refusal(code="guard-unavailable").encode())
    assert relayed(site, request) == unavailable
    site.socket.unlink()
    assert relayed(site, request) == unavailable
    site.start()
    with pytest.raises(Refused, match="answer-lost"):
        site.relay().train(lost)
    assert site.outcome(key_of(lost)) == ("committed", "crashed")
    assert site.relay().train(kept).content == before.content
    assert site.spent() == {"committed": LONG.phases[0].steps_per_round + 1}


def test_sigterm_ends_a_round_and_the_guard(mortal: Site) -> None:
    site = mortal
    site.train()
    site.office.run = "ended"
    request = site.request(site.plan(LONG))
    call = begun(site, request)
    assert site.end(signal.SIGTERM) == 0
    until(call.done)
    assert call.code() is not grpc.StatusCode.OK
    assert site.outcome(key_of(request)) == ("committed", "ended early")
    assert not site.socket.exists()
    assert "Traceback" not in site.log.read_text()


def test_a_second_guard_on_the_socket_is_refused(site: Site, corpus: Path) -> None:
    with made(corpus) as second:
        second.write((("site", "socket"), str(site.socket)))
        second.socket = second.folder / "none"
        with pytest.raises(AssertionError):
            second.start()
        assert "a guard listens here already" in " ".join(second.log.read_text().split())
    assert site.train().content


def test_replies_leave_at_whole_slots_and_the_status_tells_nothing_in_between(corpus: Path) -> None:
    """Not before the slot, good or bad; meanwhile busy, and a caller that waits begins after it."""
    with served(corpus, (SLOT, 2.0)) as site:
        site.plan()  # the model is loaded
        good, bad = site.request(site.plan()), site.request(plans.plan(site.plan(), delta=0.5))
        for request in (good, good, bad):  # trained, kept, refused
            began = time.monotonic()
            try:
                site.relay().train(request)
            except Refused:
                assert request is bad
            assert time.monotonic() - began >= 2.0
        began = time.monotonic()
        first = threading.Thread(target=site.relay().train, args=(good,))
        first.start()
        until(lambda: site.relay().status().busy)
        second = site.office.question(site.plan())
        site.relay().describe(second)
        assert time.monotonic() - began >= 2.0
        first.join()
        held = caller(site).Describe.future(to_proto(second), timeout=SECONDS)
        until(lambda: site.relay().status().busy)
        assert not held.done()
    # A slot as long as a day holds no end up.
    with served(corpus, (SLOT, 86_400)) as site:
        question = to_proto(site.office.question(LONG))
        call = caller(site).Describe.future(question, timeout=SECONDS)
        until(lambda: site.relay().status().busy)
        assert site.end(signal.SIGTERM) == 0
        until(call.done)


def test_what_fails_unforeseen_leaves_as_a_code_only(
    corpus: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gRPC would send an exception's text to the caller, and log it."""

    class Call:
        """As much of gRPC's context as a refusal needs."""

        words: tuple[object, ...] = ()

        def time_remaining(self) -> float:
            return 5.0

        def set_trailing_metadata(self, metadata: tuple[tuple[str, bytes]]) -> None:
            self.said = (metadata,)

        def abort(self, *words: object) -> None:
            self.said += words
            raise InterruptedError

    with made(corpus) as site:
        site.write()
        for name in ("DPBITFIT_TOUCHED", "DPBITFIT_LETTERS"):
            monkeypatch.setenv(name, site.environment[name])
        begin(site.ledger_file)
        guard = Guard(Policy.read(site.policy))

        def fail(*_: object) -> Envelope:
            raise ValueError("row 7: my secret diagnosis")

        guard.describe = fail  # type: ignore[method-assign]
        call = Call()
        with pytest.raises(InterruptedError):
            Service(guard).Describe(pb.Envelope(), call)  # type: ignore[arg-type]
        assert "secret" not in repr(call.said) + caplog.text
        assert call.said[1:] == (grpc.StatusCode.INTERNAL, "internal")


def test_what_the_guard_writes_is_its_own(corpus: Path) -> None:
    """Whatever umask it was started under: the database's log holds the key that signs."""
    with made(corpus, fresh=True) as site:
        site.ledger_file = site.folder / "site" / "new" / "ledger.sqlite"
        site.write((("site", "ledger"), str(site.ledger_file)))
        site.environment["TMPDIR"] = str(site.folder / "site")
        site.start(umask=0)
        call = begun(site, site.request(site.plan(LONG)))
        result = {file for part in ("site", "run") for file in (site.folder / part).rglob("*")}
        call.cancel()
        names = {file.name for file in result}
        assert {"guard.sock", "inner.sock", "ledger.sqlite-wal", "ledger.sqlite.lock"} <= names
        modes = {file: file.stat().st_mode & 0o777 for file in result}
        assert modes.pop(site.socket) == 0o660
        assert [file for file, mode in modes.items() if mode & 0o077] == []
