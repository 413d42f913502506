"""Flower carries an envelope and nothing else; an array is bytes, and nothing of it is parsed."""

from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from dpbitfit.errors import ProtocolError
from dpbitfit.protocol.envelope import Envelope
from dpbitfit.protocol.flower import from_arrays, pack, to_arrays, unpack

WHOLE = Envelope(b"{}", "a" * 64, "b" * 128, b"\x00\x00\x80?")

envelopes = st.builds(Envelope, st.binary(), st.text(), st.text(), st.binary())


@given(envelopes)
def test_an_envelope_survives(envelope: Envelope) -> None:
    assert unpack(pack(envelope)) == envelope


def array(**changes: Any) -> ArrayRecord:
    fields = {"dtype": "uint8", "shape": (4,), "stype": "dpbitfit", "data": WHOLE.content}
    return ArrayRecord({changes.pop("name", "content"): Array(**{**fields, **changes})})


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "float32"},
        {"dtype": "float32", "shape": (1,)},
        {"shape": (2,)},
        {"shape": (2, 2)},
        {"shape": ()},
        {"stype": "numpy.ndarray"},
        {"data": WHOLE.content[:-1]},
        {"data": WHOLE.content + b"x"},
        {"name": "weights"},
    ],
    ids=str,
)
def test_an_array_that_is_not_what_it_declares_is_refused(change: dict[str, Any]) -> None:
    record = pack(WHOLE)
    assert unpack(RecordDict({**record, "content": array()})) == WHOLE
    record["content"] = array(**change)
    with pytest.raises(ProtocolError, match="array"):
        unpack(record)


def test_anything_beside_the_envelope_is_refused() -> None:
    fields = dict(pack(WHOLE).config_records["envelope"])
    records: list[dict[str, Any]] = [
        {},
        {"content": array()},
        {"envelope": array()},
        {"metrics": MetricRecord({"records": 60})},
        {"envelope": ConfigRecord({**fields, "records": 60})},
        {"envelope": ConfigRecord({**fields, "statement": "{}"})},
        {"envelope": ConfigRecord({name: fields[name] for name in ("statement", "sender")})},
        {"content": ConfigRecord({})},
        {"content": ArrayRecord()},
        {"content": ArrayRecord({**array(), "more": Array(np.zeros(3))})},
    ]
    for number, change in enumerate(records):
        whole = RecordDict({**pack(WHOLE), **change} if number > 1 else change)
        with pytest.raises(ProtocolError):
            unpack(whole)


def test_a_vector_survives_as_the_record_of_a_strategy() -> None:
    vector = np.arange(5, dtype=np.float32)
    assert (from_arrays(to_arrays(vector), 5) == vector).all()
    for bad in (vector[:-1], vector + np.float32("nan")):
        with pytest.raises(ProtocolError):
            from_arrays(to_arrays(bad), 5)
