"""Public random directions of DPZero (Zhang et al. 2023, arXiv 2310.09639), the same everywhere.

A direction ``z`` [P] has signs for values, +1 or -1 with equal odds: ``E[z z^T] = I`` as for
a Gaussian, and its L2 norm is always sqrt(P). The signs are the bits of AES-256 in counter mode,
so that no library's rounding or version changes them; and sums of directions are taken in one
order in float64, so that both sides compute the same values. Imports without torch.

*Formal guarantee*: nothing here is secret, and privacy does not rest on it. The seed's
holder knows every direction, and so noise never comes from here (``noise.RandomSource``).
"""

import math
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

Row = NDArray[np.float32] | NDArray[np.float64]


@dataclass(frozen=True)
class Directions:
    """The directions of one phase at one site, by step and number.

    ``seed`` [32 bytes] follows from public values: see ``Plan.directions``.
    """

    seed: bytes

    def signs(self, step: int, number: int, size: int) -> NDArray[np.int8]:
        """Direction ``number`` of a ``step`` of the phase, both from 0: [size]."""
        # 2^48 blocks are left for each direction.
        counter = step.to_bytes(6, "big") + number.to_bytes(4, "big") + bytes(6)
        stream = Cipher(algorithms.AES256(self.seed), modes.CTR(counter)).encryptor()
        data = np.frombuffer(stream.update(bytes(-(-size // 8))), np.uint8)
        bits = np.unpackbits(data, count=size, bitorder="little").astype(np.int8)
        signs: NDArray[np.int8] = 2 * bits - 1
        return signs

    def gradient(self, step: int, row: Row, size: int) -> NDArray[np.float64]:
        """The gradient [size] for which a released row [K] stands: ``sum_k r_k z_k / sqrt(K)``.

        Without noise and clipping its mean over all directions is the gradient itself. Values
        count as float32, as which they are sent.
        """
        total = np.zeros(size)
        for number, value in enumerate(row.astype(np.float32).astype(np.float64)):
            total += value * self.signs(step, number, size)
        return total / math.sqrt(len(row))
