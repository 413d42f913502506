"""What the coordinator asks of a site, signed; and what of a reply is worth reading."""

from typing import cast

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from dpbitfit.errors import GuardUnavailable, PolicyError, ProtocolError
from dpbitfit.ledger import Ledger
from dpbitfit.ledger.exchange import SignedHead
from dpbitfit.plan import Plan
from dpbitfit.protocol import codec, payloads
from dpbitfit.protocol.signing import Statement, verify

Scalars = dict[str, str | int]


def question(plan: Plan, run: str, ledger: Ledger, position: Scalars | None = None) -> RecordDict:
    """Asks a site what it is, and whether it would take part in a plan.

    ``position`` tells it where this ledger stands, for the head that it has stated.
    """
    signature = ledger.signer.sign("describe", payloads.question(plan, run))
    asked: Scalars = {"run": run, "ledger": ledger.id, "signature": signature}
    return _record(plan, asked=asked, **({"position": position} if position else {}))


def request(
    purpose: str,
    plan: Plan,
    run: str,
    number: int,
    key: str,
    arrays: ArrayRecord,
    ledger: Ledger,
    position: Scalars,
) -> RecordDict:
    """Asks a site to ``train`` or ``evaluate`` one round from packed biases."""
    said = payloads.request(plan, run, number, key, codec.raw(arrays))
    signature = ledger.signer.sign(purpose, said)
    asked: Scalars = {"round": number, "run": run, "key": key, "signature": signature}
    content = _record(plan, request=asked, position=position)
    content["biases"] = arrays
    return content


def stated(content: RecordDict) -> ConfigRecord:
    """A reply's statements, a refusal's too; GuardUnavailable where nobody at the site answered."""
    said = content.get("statements")
    if not isinstance(said, ConfigRecord):
        raise ProtocolError("a reply carries no statements")
    if said.get("refused") == GuardUnavailable.code:
        raise GuardUnavailable("the site's guard does not answer")
    return said


def accepted(content: RecordDict) -> ConfigRecord:
    """A reply's statements; ProtocolError where there are none, or they are a refusal."""
    said = stated(content)
    if said.get("refused"):
        raise ProtocolError(refusal(said))
    return said


def refusal(said: ConfigRecord) -> str:
    """A site's refusal in words; why it refuses is for its own log alone."""
    code = str(said["refused"])[:40]
    if code == PolicyError.code:
        return "its policy does not allow this plan: its guard's log names what"
    return f"it refused with the code {code!r}"


def position(content: RecordDict, key: str) -> SignedHead:
    """Where the site's ledger stands, as it signed for a round; ProtocolError where it did not."""
    stands = content.get("position")
    if not isinstance(stands, ConfigRecord):
        raise ProtocolError("a reply does not say where the site's ledger stands")
    return SignedHead.from_config(stands, key)


def check_signature(content: RecordDict, ledger: str) -> None:
    """IdentityError unless the site whose ledger that is signed the reply."""
    said = dict(stated(content))
    signature = str(said.pop("signature", ""))
    said.pop("refused", None)
    update, metrics = content.get("update"), content.get("metrics")
    packed = b""
    if isinstance(update, ArrayRecord):
        packed = codec.raw(update)
    elif isinstance(metrics, MetricRecord):
        packed = payloads.metrics(cast(dict[str, float], dict(metrics)))
    verify(ledger, "reply", payloads.reply(cast(Statement, said), packed), signature)


def payload_bytes(message: Message) -> int:
    """What a message's content weighs as Flower sends it; 0 for an error."""
    if not message.has_content():
        return 0
    return sum(len(part.deflate()) for part in get_all_nested_objects(message).values())


def _record(plan: Plan, **parts: Scalars) -> RecordDict:
    records = {name: ConfigRecord({**part}) for name, part in parts.items()}
    return RecordDict({**records, "plan": ConfigRecord(plan.to_config())})
