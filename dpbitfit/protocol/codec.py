"""A float32 vector as bytes, and back, checked.

The registry is closed: a name in a plan selects an encoding of this module.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dpbitfit.errors import ProtocolError

Vector = NDArray[np.float32]


class Codec(Protocol):
    """One encoding of a vector."""

    name: str
    bytes_per_value: int

    def encode(self, vector: Vector) -> bytes:
        """A vector [P] as bytes."""

    def decode(self, data: bytes, size: int, max_norm: float = np.inf) -> Vector:
        """The vector [size] of its bytes.

        Raises ProtocolError unless they are ``size`` finite values with an L2 norm of at
        most ``max_norm``.
        """


class Float32:
    """Little-endian float32 values, four bytes each."""

    name = "float32"
    bytes_per_value = 4

    def encode(self, vector: Vector) -> bytes:
        """A vector [P] as 4 P bytes."""
        return np.ascontiguousarray(vector, dtype="<f4").tobytes()

    def decode(self, data: bytes, size: int, max_norm: float = np.inf) -> Vector:
        """The vector [size] of 4 ``size`` bytes; ProtocolError as ``Codec.decode``."""
        if len(data) != self.bytes_per_value * size:
            raise ProtocolError(f"the vector is not {size} float32 values")
        return checked(np.frombuffer(data, dtype="<f4").astype(np.float32), max_norm)


CODECS: dict[str, Codec] = {codec.name: codec for codec in (Float32(),)}
FLOAT32 = CODECS[Float32.name]


def checked(vector: Vector, max_norm: float) -> Vector:
    """The same vector; ProtocolError unless it is finite, with a norm of at most ``max_norm``."""
    if not np.isfinite(vector).all():
        raise ProtocolError("the vector holds a value that is not finite")
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    if norm > max_norm:
        raise ProtocolError(f"the vector's norm {norm:.3g} is above {max_norm:.3g}")
    return vector
