"""The linear layer over labels: from their names, or as it was stored."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from dpbitfit.errors import InputError

_ALIKE = 1e-8  # of 1 - cosine: what float32's rounding may make of equal embeddings
_ROWS_AT_ONCE = 256


class SteadyLinear(nn.Linear):
    """A linear layer whose output for a record [d] does not depend on how many there are.

    A product of few rows takes another kernel, whose sums round differently.
    """

    _MORE_ROWS = 8

    def forward(self, input: Tensor) -> Tensor:
        """Outputs [B, K] of inputs [B, d]."""
        return super().forward(functional.pad(input, (0, 0, 0, self._MORE_ROWS)))[: len(input)]


def make_head(weight: Tensor, bias: Tensor | None) -> SteadyLinear:
    """A head of a weight [K, d], with a bias [K] where there is one."""
    head = SteadyLinear(weight.shape[1], weight.shape[0], bias=bias is not None)
    with torch.no_grad():
        head.weight.copy_(weight)
        if bias is not None:
            head.bias.copy_(bias)
    return head


def label_head(labels: Sequence[str], vectors: Tensor, with_bias: bool) -> SteadyLinear:
    """A head of the label names' embeddings [K, d], unit vectors.

    Raises InputError, naming both, for two labels that embed alike: no record could tell them
    apart.
    """
    units = functional.normalize(vectors.double(), dim=-1)
    for start in range(0, len(units), _ROWS_AT_ONCE):
        cosines = (units[start : start + _ROWS_AT_ONCE] @ units.T).triu(start + 1)
        for row, column in (cosines > 1 - _ALIKE).nonzero()[:1].tolist():
            raise InputError(
                f"the labels {labels[start + row]!r} and {labels[column]!r} read alike to this "
                "model: rename one so that more than case, accents, '_' or '-' differ"
            )
    return make_head(vectors, torch.zeros(len(vectors)) if with_bias else None)


def stored_head(tensors: Mapping[str, Tensor], labels: int, with_bias: bool) -> SteadyLinear:
    """A head out of stored tensors; a bias that is wanted and was not stored is zero.

    Raises InputError where they are no head over that number of ``labels``.
    """
    weight, bias = tensors.get("head.weight"), tensors.get("head.bias")
    if bias is None and with_bias:
        bias = torch.zeros(labels)
    shaped = weight is not None and weight.dim() == 2 and len(weight) == labels
    if weight is None or not shaped or not (bias is None or bias.shape == (labels,)):
        raise InputError(f"the stored head is none over {labels} labels")
    return make_head(weight, bias)
