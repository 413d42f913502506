"""Weights and rows that are no numbers: a model of the former is refused, the latter are zeroed."""

import logging

import torch
from torch import Tensor, nn

from dpbitfit.errors import ModelError

_log = logging.getLogger("dpbitfit.engine")


def require_finite(model: nn.Module) -> None:
    """ModelError for weights that are no numbers, wherever they are: probes need not meet them."""
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise ModelError(f"{name} holds values that are not finite: the weights are damaged")


class FiniteRows:
    """Zeroes what is not finite, and remembers whether any row was."""

    def __init__(self) -> None:
        self._some: Tensor | None = None  # None before the first

    def only(self, *parts: Tensor) -> list[Tensor]:
        """The rows' parts [B, p] on their devices, with zeros in all for each row not finite."""
        finite = torch.isfinite(parts[0]).all(dim=1, keepdim=True)  # [B, 1]
        for part in parts[1:]:
            finite &= torch.isfinite(part).all(dim=1, keepdim=True).to(finite.device)
        some = finite.any()  # not looked at here: that would wait for the device
        self._some = some if self._some is None else self._some | some
        return [torch.where(finite.to(part.device), part, torch.zeros_like(part)) for part in parts]

    def warn(self) -> None:
        """Say where none was, to the machine's own log alone: it tells of the records."""
        if self._some is not None and not self._some:
            _log.warning(
                "no record of this round had a finite gradient: it released noise alone; "
                "the biases that it began from are out of range"
            )
