"""Norms of rows, each a function of its own row alone, to the bit and on every device."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# By this a clipped row is shortened, so that rounding cannot pass its bound.
SAFETY = 1 - 1e-12


def row_norms(rows: "Tensor") -> "Tensor":
    """The L2 norm [..., 1] of each row [..., D], float64.

    Squares are added half to half: a device's own sum has an order that follows from how many
    rows there are, and so the norm of one would depend on the others in its last bits.
    """
    squares = rows * rows
    while (width := squares.shape[-1]) > 1:
        half = (width + 1) // 2
        squares[..., : width - half] += squares[..., half:]
        squares = squares[..., :half]
    return squares.sqrt()


def exact_rows(rows: "Tensor") -> "Tensor":
    """Rows [B, D] in float64; one that is not finite becomes zero."""
    finite = rows.isfinite().all(dim=1, keepdim=True)  # [B, 1]
    return rows.double().where(finite, 0.0)
