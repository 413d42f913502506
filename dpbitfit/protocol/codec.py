"""The trained vector as one small Flower array, and back, checked.

One array, because every Flower array is its own request: a hundred small ones
cost twice the bytes and five times the time of one.
"""

import io

import numpy as np
from flwr.common import Array, ArrayRecord
from numpy.typing import NDArray

from dpbitfit.errors import ProtocolError

KEY = "biases"


def encode(vector: NDArray[np.float32]) -> ArrayRecord:
    """One float32 vector [P] as a record of one array named ``biases``."""
    packed = np.ascontiguousarray(vector, dtype=np.float32)  # [P]
    return ArrayRecord({KEY: Array(packed)})


def decode(record: ArrayRecord, parameters: int, max_norm: float = np.inf) -> NDArray[np.float32]:
    """The float32 vector [parameters] of a record; ProtocolError as ``raw`` and ``vector``."""
    return vector(raw(record), parameters, max_norm)


def raw(record: ArrayRecord) -> bytes:
    """The little-endian float32 values of a record.

    Raises ProtocolError unless the record holds exactly one flat array of that
    name and type.
    """
    if list(record.keys()) != [KEY]:
        raise ProtocolError("the message does not hold exactly one array of biases")
    array = record[KEY]
    if array.dtype != "float32" or len(array.shape) != 1:
        raise ProtocolError("the biases are not one row of float32 values")
    # The declared type and shape come from the sender; so does the payload, whose
    # header is compared, never parsed: NumPy reads it as Python.
    header = _header(array.shape[0])
    if len(array.data) != len(header) + 4 * array.shape[0]:
        raise ProtocolError("the biases' payload has the wrong length")
    if not array.data.startswith(header):
        raise ProtocolError("the biases' payload is not what it says")
    return array.data[len(header) :]


def _header(values: int) -> bytes:
    """What NumPy writes before a row of so many float32 values."""
    file = io.BytesIO()
    told = {"descr": "<f4", "fortran_order": False, "shape": (values,)}
    np.lib.format.write_array_header_1_0(file, told)
    return file.getvalue()


def vector(packed: bytes, parameters: int, max_norm: float = np.inf) -> NDArray[np.float32]:
    """The float32 vector [parameters] of its little-endian bytes.

    Raises ProtocolError unless there are so many values, finite everywhere, with
    an L2 norm of at most ``max_norm``.
    """
    if len(packed) != 4 * parameters:
        raise ProtocolError(f"the biases are not {parameters} float32 values")
    values = np.frombuffer(packed, dtype="<f4").astype(np.float32)  # [P]
    if not np.isfinite(values).all():
        raise ProtocolError("the biases hold a value that is not finite")
    norm = float(np.linalg.norm(values.astype(np.float64)))
    if norm > max_norm:
        raise ProtocolError(f"the biases' norm {norm:.3g} is above {max_norm:.3g}")
    return values
