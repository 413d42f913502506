"""A coordinator, a relay or a bundle that wants more than the policy allows."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from dpbitfit_client.guard_client import MOST_BYTES
from dpbitfit_client.message import Refused, to_proto

from dpbitfit.accounting import composition
from dpbitfit.errors import GuardUnavailable, IdentityError
from dpbitfit.protocol.envelope import Envelope
from dpbitfit.protocol.messages import Description, Refusal, TrainReply
from dpbitfit.protocol.signing import Signer, untouched, verify

from ...support import plans
from ...support.coordinators import changed
from ...support.sites import GOOD, SECONDS, Site, fresh_key, key_of, served

Code = grpc.StatusCode
TRAIN = "/dpbitfit.guard.v1.Guard/Train"


@pytest.fixture(scope="module")
def site(corpus: Path) -> Iterator[Site]:
    longest = ("datasets", "letters", "coordinators", "office", "max-length")
    with served(corpus, (longest, 600)) as site:
        yield site


NAN, INF = float("nan"), float("inf")
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"steps_per_round": 5001}, "policy"),
    ({"steps_per_round": 10**7}, "bad-input"),
    ({"steps_per_round": -1}, "bad-input"),
    ({"rounds": 201}, "policy"),
    ({"rounds": 2**62}, "bad-input"),
    ({"noise_multiplier": 0.99}, "policy"),
    ({"noise_multiplier": 0.0}, "bad-input"),
    ({"noise_multiplier": -20.0}, "bad-input"),
    ({"noise_multiplier": NAN}, "bad-input"),
    ({"noise_multiplier": INF}, "bad-input"),
    ({"sampling_rate": 0.6}, "policy"),
    ({"sampling_rate": 1.5}, "bad-input"),
    ({"sampling_rate": -0.1}, "bad-input"),
    ({"sampling_rate": NAN}, "bad-input"),
    ({"delta": 0.1}, "budget"),
    ({"delta": NAN}, "bad-input"),
    ({"clipping_norm": INF}, "bad-input"),
    ({"clipping_norm": 1e-320}, "bad-input"),
    ({"clipping_norm": -1.0}, "bad-input"),
    ({"learning_rate": NAN}, "bad-input"),
    ({"logit_scale": 1e300}, "bad-input"),
    ({"max_length": 601}, "policy"),
    ({"max_length": 0}, "bad-input"),
    ({"max_length": -(2**62)}, "bad-input"),
    ({"noise": "fast-insecure"}, "policy"),
    ({"noise": "none"}, "bad-input"),
    ({"clipping": "none"}, "bad-input"),
    ({"head": "trained"}, "policy"),
    ({"model": "../../etc"}, "policy"),
    ({"unit": "customer"}, "policy"),
    ({"dataset": "salaries"}, "policy"),
    ({"dataset": "letters:evaluation"}, "policy"),
    ({"evaluations": -1}, "bad-input"),
    ({"layout_digest": "2" * 64}, "protocol"),
    ({"model_digest": "2" * 64}, "protocol"),
    ({"noise_multiplier": 1.0, "steps_per_round": 5000}, "budget"),
    ({"metrics": "x" * 70_000}, "protocol"),
]
STATUS = {
    "bad-input": Code.INVALID_ARGUMENT,
    "protocol": Code.FAILED_PRECONDITION,
    "policy": Code.FAILED_PRECONDITION,
    "budget": Code.RESOURCE_EXHAUSTED,
    "identity": Code.UNAUTHENTICATED,
}


def raw(site: Site, method: str, request: bytes, timeout: float | None = SECONDS) -> bytes:
    """Bytes to the socket, past every client code."""
    limits = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(f"unix:{site.socket}", options=limits) as channel:
        reply: bytes = channel.unary_unary(method)(request, timeout=timeout)
    return reply


def wire(request: Envelope) -> bytes:
    return to_proto(request).SerializeToString()


def status(call: Callable[[], object]) -> Code:
    try:
        call()
    except grpc.RpcError as error:
        return error.code()  # type: ignore[no-any-return,attr-defined]
    return Code.OK


def is_untouched(site: Site, refusal: Refusal) -> bool:
    """Whether the refusal carries the site's signature that its key touched no data."""
    ledger = site.ledger()
    try:
        verify(ledger.id, "untouched", untouched(refusal.key), refusal.untouched)
    except IdentityError:
        return False
    finally:
        ledger.database.close()
    return True


def test_whatever_is_outside_the_policy_is_refused_before_a_record_is_touched(site: Site) -> None:
    """Each with its code and status; none spends; none keeps the next good one from its answer."""
    for change, code in WRONG:
        request = site.request(plans.forged(site.plan(), **change))
        with pytest.raises(Refused) as refused:
            site.relay().train(request)
        assert refused.value.code == code, change
        assert status(lambda request=request: raw(site, TRAIN, wire(request))) in (
            STATUS[code],
            STATUS["protocol"],  # the key was given up meanwhile
        ), change
    for bad in (site.biases()[:-1], site.biases() + NAN):
        refusal = site.refused(site.plan(), biases=bad)
        assert refusal.code == "protocol"
        assert is_untouched(site, refusal)
    assert site.spent() == {}
    assert site.train().content
    assert site.readings() == ["train", "evaluate"]  # at the start, and for no question
    assert site.spent() == {"committed": 1}


@pytest.mark.parametrize("purpose", ["train", "evaluate"])
def test_biases_that_honest_training_cannot_reach_are_refused_untouched(
    site: Site, purpose: str
) -> None:
    """With such biases float32's rounding or overflow could tell of single records."""
    plan = plans.plan(site.plan(), metrics="accuracy", evaluations=1)
    before, ask = site.spent(), getattr(site.relay(), purpose)
    for scale in (10.5, 1e2, 1e4, 1e6, 3e38):
        one, all_of_them = site.biases().copy(), site.biases().copy()
        one[-1] = -scale
        all_of_them += np.float32(scale) * np.resize([1, -1], len(one)).astype(np.float32)
        for biases in (one, all_of_them):
            for rate in (
                plan.phases[0].optimizer.learning_rate,
                1e6,
            ):  # which a coordinator chooses
                chosen = plans.plan(plan, learning_rate=rate)
                with pytest.raises(Refused) as refused:
                    ask(site.request(chosen, purpose, biases=biases))
                assert refused.value.code == "policy"
                assert is_untouched(site, refused.value.refusal)
    assert site.spent() == before
    assert "the policy allows a bias up to 10 from its pretrained value" in site.log.read_text()
    site.office.run = f"far-{purpose}"
    far = site.biases() + np.float32(9.5)
    assert ask(site.request(plan, purpose, biases=far)).signature
    site.office.run = "run-1"


def test_each_refusal_has_its_status(site: Site) -> None:
    seen = {}
    for change, code in WRONG:
        if code not in seen:
            request = wire(site.request(plans.forged(site.plan(), **change)))
            seen[code] = status(lambda request=request: raw(site, TRAIN, request))
    unsigned = replace(site.request(site.plan()), signature="")
    seen["identity"] = status(lambda: raw(site, TRAIN, wire(unsigned)))
    assert seen == STATUS
    no_deadline = wire(site.request(site.plan()))
    assert status(lambda: raw(site, TRAIN, no_deadline, timeout=None)) == Code.INVALID_ARGUMENT


def test_only_a_coordinator_of_the_policy_is_listened_to(site: Site) -> None:
    """A stranger's own signature, another's name, and a signature for another purpose."""
    before, events = site.spent(), last_event(site)
    plan = site.plan()
    good = site.request(plan)
    stranger = Signer(b"s" * 32)
    statement, content = good.statement, good.content
    head = json.loads(statement)["head"]
    forged = [
        replace(Envelope.sign(stranger, "train", statement, content), sender=good.sender),
        Envelope.sign(stranger, "train", statement, content),
        replace(good, signature=good.signature[:-2] + ("00", "11")[good.signature[-2:] == "00"]),
        Envelope.sign(site.office.ledger.signer, "evaluate", statement, content),
        Envelope.sign(site.other.ledger.signer, "train", statement, content),
        changed(good, head={**head, "spent": "[]"}),
        changed(good, run="another"),
        replace(good, content=content[:-4] + b"\0\0\0\1"),
        replace(good, sender=site.other.ledger.id),
    ]
    for request in forged:
        with pytest.raises(Refused) as refused:
            site.relay().train(request)
        assert refused.value.code == "identity"
        assert refused.value.refusal == Refusal(code="identity")  # no promise is made to a stranger
    assert (site.spent(), last_event(site)) == (before, events)
    assert key_of(good) == TrainReply.decode(site.relay().train(good).statement).key


def last_event(site: Site) -> list[int]:
    ledger = site.ledger()
    result = [account.sequence for account in ledger.accounts()]
    ledger.database.close()
    return result


def test_a_replayed_key_is_the_same_bytes_or_nothing(site: Site) -> None:
    first = site.request(site.plan())
    answer = site.relay().train(first)
    before = site.spent()
    assert site.relay().train(first).content == answer.content
    for options in ({"biases": site.biases() + 1}, {"by": site.other}):
        refusal = site.refused(site.plan(), key=key_of(first), **options)
        assert (refusal.code, refusal.untouched) == ("protocol", "")
    as_evaluation = site.request(
        plans.plan(site.plan(), metrics="accuracy", evaluations=1), "evaluate", key=key_of(first)
    )
    with pytest.raises(Refused, match="protocol"):
        site.relay().evaluate(as_evaluation)
    assert site.spent() == before
    later = site.train()
    assert later.content != answer.content
    with pytest.raises(Refused, match="answer-lost"):
        site.relay().train(first)
    assert site.spent() == {"committed": before["committed"] + 1}


def test_no_coordinator_spends_or_reads_on_anothers_account(site: Site) -> None:
    """A run belongs to whom it was approved for: else one would spend the other's share."""
    site.train()
    before = site.spent()
    assert site.other.run == site.office.run
    assert site.refused(site.plan(), by=site.other).code == "protocol"
    reply = site.relay().describe(site.other.question(site.plan()))
    assert reply.read(Description, "reply").rounds_left == -1
    assert site.spent() == before


def test_a_coordinator_spends_no_more_than_its_share(site: Site) -> None:
    """A plan that one coordinator's share pays for, and another's does not; the budget would."""
    before = site.spent()
    costs = plans.plan(site.plan(), noise_multiplier=2.0, sampling_rate=0.1, rounds=200)
    assert 2.0 < composition.epsilon(dict(costs.counts), 1e-5).epsilon < 5.0
    site.other.run = "too-much"
    site.office.run = "enough"
    try:
        refusal = site.refused(costs, by=site.other)
        assert refusal.code == "budget"
        assert is_untouched(site, refusal)
        assert site.spent() == before
        assert site.train(costs).content
    finally:
        site.office.run = site.other.run = "run-1"


def test_a_given_up_key_that_is_replayed_late_does_not_stop_the_account(site: Site) -> None:
    """Else the relay could make two honest ledgers seem to disagree."""
    old = site.request(plans.plan(site.plan(), noise_multiplier=0.5))
    with pytest.raises(Refused, match="policy"):
        site.relay().train(old)
    site.office.ledger.set_budget(site.office._account.name, 7.0, "so that its ledger has moved on")
    site.train()
    with pytest.raises(Refused):
        site.relay().train(old)
    assert site.train().content


def test_ten_thousand_requests_spend_nothing_and_the_next_is_answered(site: Site) -> None:
    before, events, memory = site.spent(), last_event(site), rss(site)
    request = wire(replace(site.request(site.plan()), signature="0" * 128))
    with grpc.insecure_channel(f"unix:{site.socket}") as channel:
        call = channel.unary_unary(TRAIN)
        result = {status(lambda: call(request, timeout=SECONDS)) for _ in range(10_000)}
    assert result == {Code.UNAUTHENTICATED}
    assert (site.spent(), last_event(site)) == (before, events)
    assert rss(site) < memory + 200e6
    assert site.train().content


def test_a_key_asked_for_again_and_again_grows_no_ledger(site: Site) -> None:
    request = wire(site.request(plans.plan(site.plan(), noise_multiplier=0.5)))
    raw_status = {status(lambda: raw(site, TRAIN, request)) for _ in range(2)}
    before = last_event(site)
    raw_status |= {status(lambda: raw(site, TRAIN, request)) for _ in range(50)}
    assert raw_status == {Code.FAILED_PRECONDITION}
    assert last_event(site) == before


def rss(site: Site) -> int:
    assert site.process is not None
    return int(psutil.Process(site.process.pid).memory_info().rss)


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_a_huge_message_is_not_kept_in_memory(site: Site, compression: grpc.Compression) -> None:
    """A thousand megabytes; and as many that arrive as one, compressed."""
    before, memory = site.spent(), rss(site)
    limits = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(f"unix:{site.socket}", limits, compression) as channel:
        call = channel.unary_unary(TRAIN).future(bytes(1 << 30), timeout=SECONDS)
        most = memory
        while not call.done():
            most = max(most, rss(site))
    assert call.code() in (Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE, Code.CANCELLED)
    assert most < memory + 4 * MOST_BYTES
    assert site.spent() == before
    assert site.train().content


def test_much_text_beside_the_biases_is_refused(site: Site) -> None:
    """Some of it would be kept: signed positions of many megabytes, each another one."""
    much = "[" + "0," * (1 << 20) + "0]"
    head = {**site.office.head({}, key := fresh_key()), "spent": much}
    for request in (
        site.request(site.plan(), key=key, head=head),
        site.request(site.plan(), key="\x1b[2J" + fresh_key()),
        replace(site.request(site.plan()), sender="0" * (1 << 20)),
        replace(site.request(site.plan()), signature="0" * (1 << 20)),
    ):
        with pytest.raises(Refused, match="protocol"):
            site.relay().train(request)
    wordy = site.office.question(plans.forged(site.plan(), metrics="x" * 70_000))
    with pytest.raises(Refused, match="protocol"):
        site.relay().describe(wordy)


def test_huge_metadata_and_nonsense_are_refused(site: Site) -> None:
    with grpc.insecure_channel(f"unix:{site.socket}") as channel:
        call = channel.unary_unary(TRAIN)
        huge = [("x-much", "y" * (1 << 20))]
        assert status(lambda: call(b"", timeout=SECONDS, metadata=huge)) != Code.OK
        assert status(lambda: call(b"\xff" * 100, timeout=SECONDS)) != Code.OK
        nowhere = channel.unary_unary("/dpbitfit.guard.v1.Guard/Dump")
        assert status(lambda: nowhere(b"", timeout=SECONDS)) == Code.UNIMPLEMENTED
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")
        assert status(lambda: list(watch(b"", timeout=SECONDS))) == Code.UNIMPLEMENTED
    assert site.train().content


def test_a_flood_of_other_settings_reads_nothing_and_stays_in_memory(site: Site) -> None:
    """Each loads the model again; two are kept."""
    reads, held = site.readings(), []
    for number in range(12):
        plan = plans.plan(GOOD, logit_scale=20.0 + number)
        site.relay().describe(site.office.question(plan))
        held.append(rss(site))
    # The least of some, because what is free is given back late; a model has 61 MB of weights.
    assert min(held[-4:]) < min(held[2:6]) + 200e6
    assert site.readings() == reads
    assert site.train().content


def test_texts_longer_than_the_model_reads_are_no_failure(site: Site) -> None:
    """Else an error would tell whether the site has one: it would be an answer without noise."""
    often = plans.plan(GOOD, max_length=600, sampling_rate=0.5, rounds=1, steps_per_round=20)
    longest = site.plan(often)
    site.office.run = "long-texts"
    try:
        assert site.train(longest).content
    finally:
        site.office.run = "run-1"


def test_only_the_site_makes_a_reply_of_its_own(site: Site) -> None:
    reply = site.train()
    ledger = site.ledger()
    assert reply.sender == ledger.id
    message = reply.read(TrainReply, "reply")
    forged = [replace(reply, content=reply.content[:-4] + b"\0\0\0\1")]
    for change in ({"key": fresh_key()}, {"round": 9}, {"plan_digest": "3" * 64}):
        forged.append(changed(reply, **change))
    for envelope in forged:
        with pytest.raises(IdentityError):
            envelope.read(TrainReply, "reply")
    with pytest.raises(IdentityError):  # a signed reply is no promise, nor the other way round
        verify(ledger.id, "untouched", untouched(message.key), reply.signature)
    ledger.database.close()


def test_the_log_tells_what_is_not_allowed_and_nothing_of_the_records(
    site: Site, corpus: Path
) -> None:
    site.refused(plans.plan(site.plan(), noise_multiplier=0.5))
    site.refused(plans.plan(site.plan(), model=f"x\n{'y' * 190}"))
    site.refused(plans.plan(site.plan(), model_digest="2" * 64))
    text = site.log.read_text()
    assert "refused: policy: the policy allows noise_multiplier from 1, not 0.5\n" in text
    assert "refused: policy: the policy does not allow the model 'x\\nyyy" in text
    assert (
        "refused: protocol: the plan is for another model or label set than this site's\n" in text
    )
    assert "y" * 60 not in text
    texts = corpus.read_text().splitlines()[1:]
    assert len(texts) > 100
    words = [corpus.name, "loaders", "Traceback", *(t[:30] for t in texts)]
    assert [word for word in words if word in text] == []


def test_a_relay_without_a_guard_says_a_fixed_code(tmp_path: Path) -> None:
    from dpbitfit_client.guard_client import SocketGuardClient

    with pytest.raises(GuardUnavailable, match="does not answer"):
        SocketGuardClient(str(tmp_path / "none.sock"), 5.0).status()
