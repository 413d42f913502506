"""An envelope as Flower carries it, and the trained vector as Flower's strategies see it.

One array each, because every Flower array is its own request: a hundred small
ones cost twice the bytes and five times the time of one.
"""

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from numpy.typing import NDArray

from dpbitfit.errors import ProtocolError
from dpbitfit.protocol.codec import FLOAT32
from dpbitfit.protocol.envelope import Envelope

BIASES = "biases"
_ENVELOPE, _CONTENT = "envelope", "content"
_DTYPE, _STYPE = "uint8", "dpbitfit"  # no NumPy file: nothing of it has to be parsed
_FIELDS = {"statement": bytes, "sender": str, "signature": str}


def pack(envelope: Envelope) -> RecordDict:
    """An envelope as the content of a Flower message."""
    fields = {name: getattr(envelope, name) for name in _FIELDS}
    record = RecordDict({_ENVELOPE: ConfigRecord(fields)})
    if envelope.content:
        content = Array(_DTYPE, (len(envelope.content),), _STYPE, envelope.content)
        record[_CONTENT] = ArrayRecord({_CONTENT: content})
    return record


def unpack(record: RecordDict) -> Envelope:
    """The envelope of a Flower message; ProtocolError where there is anything else in it."""
    fields = record.get(_ENVELOPE)
    if not isinstance(fields, ConfigRecord) or set(record) > {_ENVELOPE, _CONTENT}:
        raise ProtocolError("the message is not an envelope")
    if {name: type(value) for name, value in fields.items()} != _FIELDS:
        raise ProtocolError("the envelope's fields are not statement, sender and signature")
    content = _content(record[_CONTENT]) if _CONTENT in record else b""
    return Envelope(**fields, content=content)  # type: ignore[arg-type]


def _content(record: object) -> bytes:
    if not isinstance(record, ArrayRecord) or list(record) != [_CONTENT]:
        raise ProtocolError("the message does not hold exactly one array")
    array = record[_CONTENT]
    declared = (array.dtype, tuple(array.shape), array.stype)
    if declared != (_DTYPE, (len(array.data),), _STYPE):
        raise ProtocolError("the array is not what the message declares")
    return array.data


def to_arrays(vector: NDArray[np.float32]) -> ArrayRecord:
    """A vector [P] as the record that Flower's strategies aggregate."""
    return ArrayRecord({BIASES: Array(np.ascontiguousarray(vector, dtype=np.float32))})


def from_arrays(record: ArrayRecord, size: int) -> NDArray[np.float32]:
    """The vector [size] of a record of this process; ProtocolError as ``Codec.decode``."""
    return FLOAT32.decode(FLOAT32.encode(record[BIASES].numpy()), size)


def payload_bytes(message: Message) -> int:
    """What a message's content weighs as Flower sends it; 0 for an error."""
    if not message.has_content():
        return 0
    return sum(len(part.deflate()) for part in get_all_nested_objects(message).values())
