"""The trained vector as one small Flower array, and back, checked.

One array, because every Flower array is its own request: a hundred small ones
cost twice the bytes and five times the time of one.
"""

import numpy as np
from flwr.common import Array, ArrayRecord
from numpy.typing import NDArray

from dpbitfit.errors import ProtocolError

KEY = "biases"
_HEADER = b"\x93NUMPY\x01\x00"


def encode(vector: NDArray[np.float32]) -> ArrayRecord:
    """One float32 vector [P] as a record of one array named ``biases``."""
    packed = np.ascontiguousarray(vector, dtype=np.float32)  # [P]
    return ArrayRecord({KEY: Array(packed)})


def decode(record: ArrayRecord, parameters: int, max_norm: float = np.inf) -> NDArray[np.float32]:
    """The float32 vector [parameters] of a record.

    Raises ProtocolError unless the record holds exactly one array of that name,
    shape and type, finite everywhere, with an L2 norm of at most ``max_norm``.
    """
    if list(record.keys()) != [KEY]:
        raise ProtocolError("the message does not hold exactly one array of biases")
    array = record[KEY]
    if array.dtype != "float32" or tuple(array.shape) != (parameters,):
        raise ProtocolError(f"the biases are not {parameters} float32 values")
    # The declared type and shape come from the sender; so does the payload.
    if len(array.data) != 4 * parameters + 128 or not array.data.startswith(_HEADER):
        raise ProtocolError("the biases' payload has the wrong length")
    try:
        vector = array.numpy()
    except ValueError as error:
        raise ProtocolError("the biases' payload cannot be read") from error
    if vector.dtype != np.float32 or vector.shape != (parameters,):
        raise ProtocolError(f"the biases are not {parameters} float32 values")
    if not np.isfinite(vector).all():
        raise ProtocolError("the biases hold a value that is not finite")
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    if norm > max_norm:
        raise ProtocolError(f"the biases' norm {norm:.3g} is above {max_norm:.3g}")
    return vector
