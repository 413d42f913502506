"""A linear head on fixed features: noised sums over all of a site's units, to the bit.

    class sums      sum_i onehot(y_i) phi(x_i)^T                        [K, d]
    head gradient   sum_i (softmax(z_i) - onehot(y_i)) phi(x_i)^T       [K, d]

Both are sums of outer products ``c_i phi_i^T`` with ``|phi_i| <= 1``: of the cross-entropy
that is the gradient in the head's weight, over the public scale of the logits.

*Formal guarantee*: on the grid, adding or removing one unit moves ``outer_sum`` by that
unit's clipped sum, a function of the unit and the head alone, whose Frobenius norm is at
most the clipping norm. Features, weights and coefficients are whole numbers on public
grids, so that products and sums of them are exact in float64 in any order: no kernel's
rounding lets one record's row depend on another's. Imports without torch.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FEATURE_BITS = 16  # of a feature's grid
COEFFICIENT_BITS = 16  # of a coefficient's grid
GRID = math.ldexp(1.0, -FEATURE_BITS - COEFFICIENT_BITS)  # of a sum
_WEIGHT_BITS = 30  # of the longest row of weights: with a feature's bits and K they fit in 53
_SHORTENED = 1 - 1e-12  # so that rounding cannot pass the clipping norm
# Records at once, which bounds memory: sums of so many products of a feature and a coefficient
# are exact.
_BLOCK = 1 << 14

Whole = NDArray[np.int32]


@dataclass(frozen=True)
class LinearHead:
    """Where a head's weight [K, d] and bias [K] lie in the packed vector, and its logits' scale."""

    weight: slice
    bias: slice | None
    classes: int
    width: int
    scale: float

    def weights(self, vector: NDArray[np.float32]) -> NDArray[np.float64]:
        """The head's weight [K, d] in a packed vector [P]."""
        return vector[self.weight].reshape(self.classes, self.width).astype(np.float64)


def on_grid(features: NDArray[np.float32]) -> Whole:
    """Features [n, d], each row of a norm of at most 1, as whole numbers on their grid.

    A longer row is shortened; one that is not finite becomes zero, and contributes nothing.
    """
    whole = np.empty(features.shape, np.int32)
    for block in _blocks(len(features)):
        exact = features[block].astype(np.float64, order="C")  # a row's sum has one order
        exact[~np.isfinite(exact).all(axis=1)] = 0.0
        lengths = np.linalg.norm(exact, axis=1, keepdims=True)
        exact *= _SHORTENED / np.maximum(lengths, 1.0)
        whole[block] = np.trunc(np.ldexp(exact, FEATURE_BITS))
    return whole


def residuals(
    head: LinearHead,
    vector: NDArray[np.float32],
    features: Whole,
    classes: NDArray[np.int64],
) -> Whole:
    """``softmax(z) - onehot(y)`` [n, K] of features [n, d] on the grid, on the coefficients' grid.

    ``z = scale * (W phi + b)`` with the head of the packed ``vector`` [P].
    """
    weights = head.weights(vector)
    longest = float(np.linalg.norm(weights, axis=1).max(initial=0.0))
    step = math.ldexp(1.0, math.frexp(longest)[1] - _WEIGHT_BITS)
    rounded = np.rint(weights / step).T
    bits = 52 - math.ceil(math.log2(head.classes + 1))
    whole = np.empty((len(features), head.classes), np.int32)
    for block in _blocks(len(features)):
        products = features[block].astype(np.float64) @ rounded  # exact, in any order
        logits = products * (head.scale * math.ldexp(step, -FEATURE_BITS))
        if head.bias is not None:
            logits += head.scale * vector[head.bias].astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        odds = np.rint(np.ldexp(np.exp(logits), bits))  # whole once more: their sum is exact
        shares = odds / odds.sum(axis=1, keepdims=True)
        shares[np.arange(len(shares)), classes[block]] -= 1.0
        whole[block] = np.trunc(np.ldexp(shares, COEFFICIENT_BITS))
    return whole


def one_hot(classes: NDArray[np.int64], count: int) -> Whole:
    """Indicators [n, K] of classes [n], on the coefficients' grid."""
    indicators = np.zeros((len(classes), count), np.int32)
    indicators[np.arange(len(classes)), classes] = 1 << COEFFICIENT_BITS
    return indicators


def outer_sum(
    coefficients: Whole,
    features: Whole,
    units: Sequence[NDArray[np.int64]],
    clipping_norm: float,
) -> NDArray[np.int64]:
    """The sum [K * d], on the grid, of the units' clipped sums of ``c_i phi_i^T``.

    ``coefficients`` [n, K] and ``features`` [n, d] are on their grids. A unit's records are
    summed, and the sum clipped in Frobenius norm.
    """
    total = np.zeros((coefficients.shape[1], features.shape[1]), np.int64)
    single = np.array([unit[0] for unit in units if len(unit) == 1], np.int64)
    for block in _blocks(len(single)):
        chosen = single[block]
        clipped = _clipped_rows(coefficients[chosen].astype(np.float64), clipping_norm)
        total += (clipped.T @ features[chosen].astype(np.float64)).astype(np.int64)
    for matrix in _summed(coefficients, features, units):
        # A pairwise sum: its rounding is far below what is given away, whatever the size.
        length = math.sqrt(float(np.square(matrix).sum())) * GRID
        if length > clipping_norm * _SHORTENED:
            matrix = np.trunc(matrix * (clipping_norm * _SHORTENED / length))
        total += matrix.astype(np.int64)
    return total.reshape(-1)


def _blocks(count: int) -> Iterator[slice]:
    """Places of ``count`` rows, a block at a time."""
    for start in range(0, count, _BLOCK):
        yield slice(start, start + _BLOCK)


def _clipped_rows(coefficients: NDArray[np.float64], clipping_norm: float) -> NDArray[np.float64]:
    """Coefficients [n, K] of units of one record: their norm bounds that of the product."""
    most = math.ldexp(clipping_norm, COEFFICIENT_BITS)
    squares = (coefficients * coefficients).sum(axis=1, keepdims=True)  # exact
    factors = most * _SHORTENED / np.sqrt(np.maximum(squares, most * most))
    return np.where(squares <= most * most, coefficients, np.trunc(coefficients * factors))


def _summed(
    coefficients: Whole, features: Whole, units: Sequence[NDArray[np.int64]]
) -> Iterator[NDArray[np.float64]]:
    """The sum [K, d] of ``c_i phi_i^T`` over each unit of several records."""
    for unit in units:
        if len(unit) > 1:
            yield coefficients[unit].T.astype(np.float64) @ features[unit].astype(np.float64)
