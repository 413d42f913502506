"""Clipping: what bounds one unit's influence on the sum.

*Formal guarantee*: every row's L2 norm is at most the clipping norm C, so that
adding or removing one unit moves the sum of rows by at most C. Computed in
float64; a few units in the last place are given away so that rounding cannot
pass the bound.
"""

import numpy as np
from numpy.typing import NDArray

from dpbitfit.errors import InputError

STABILITY = 0.01  # gamma of automatic clipping, Bu et al. 2022 (arXiv 2206.07136), section 4
_SAFETY = 1 - 1e-12


def clip(rows: NDArray[np.float32], mode: str, norm: float) -> NDArray[np.float64]:
    """Clip gradient rows [B, P] to L2 norm ``norm``; returns float64 [B, P].

    ``flat``: g * min(1, C / |g|) (Abadi et al. 2016, algorithm 1).
    ``automatic``: g * C / (|g| + 0.01) (Bu et al. 2022, arXiv 2206.07136).
    A row of zeros stays zero, and a row that is not finite becomes zero. Raises
    InputError for another mode.
    """
    exact = rows.astype(np.float64)
    exact[~np.isfinite(exact).all(axis=1)] = 0.0
    lengths = np.linalg.norm(exact, axis=1, keepdims=True)  # [B, 1]
    if mode == "flat":
        factors = norm / np.maximum(lengths, norm)
    elif mode == "automatic":
        factors = norm / (lengths + STABILITY)
    else:
        raise InputError(f"clipping must be automatic or flat, not {mode!r}")
    clipped: NDArray[np.float64] = exact * (factors * _SAFETY)
    return clipped
