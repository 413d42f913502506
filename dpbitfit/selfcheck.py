"""A model is trained privately only after its gradients have been seen to be right.

The check runs on public synthetic input when a model is attached. It compares
the hooks with ordinary autograd on one record at a time, which cannot mix
records and needs no hook.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from dpbitfit.bias import BiasLayout, freeze
from dpbitfit.errors import ModelError
from dpbitfit.gradients import PerRecordGradients

TOLERANCE = 1e-3  # relative to the record's norm; float32 kernels differ with the batch size

Losses = Callable[[Sequence[int]], Tensor]


def check_gradients(model: nn.Module, layout: BiasLayout, losses: Losses, records: int = 4) -> None:
    """Refuse a model whose per-record gradients would not be right.

    ``losses`` takes indices of public synthetic records (0 to ``records`` - 1)
    and returns their losses. Raises ModelError when a row differs from ordinary
    autograd on that record alone (a layer used functionally, outputs that are
    not batch-first), when a row changes with the other records of the batch
    (layers or losses that mix records), or when a trained parameter is not
    reached by any record.
    """
    everyone = list(range(records))
    with PerRecordGradients(model, layout) as recorder:
        together = _rows(recorder, losses, everyone)  # [B, P]
        in_company = _rows(recorder, losses, [0, *reversed(everyone[2:])])
    alone = torch.stack([_by_autograd(model, layout, losses, one) for one in everyone])
    if _differ(in_company[0], together[0]):
        raise ModelError(
            "a record's gradient changes with the other records of its batch: "
            "a layer or the loss mixes records"
        )
    for name, _, place in layout.slices():
        if not alone[:, place].any():
            raise ModelError(f"{name}: no record reaches it; it cannot be trained with this model")
        if _differ(together[:, place], alone[:, place], scale=alone):
            raise ModelError(f"{name}: its per-record gradient differs from ordinary autograd's")


def _rows(recorder: PerRecordGradients, losses: Losses, records: Sequence[int]) -> Tensor:
    with recorder.records(len(records)):
        return recorder.rows(losses(records))


def _by_autograd(model: nn.Module, layout: BiasLayout, losses: Losses, record: int) -> Tensor:
    """The gradient [P] of one record, by ordinary autograd on a batch of one."""
    parameters = [model.get_parameter(name) for name in layout.names]
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        with torch.enable_grad():
            loss = losses([record]).sum()
        if loss.grad_fn is None:
            return torch.zeros(layout.size)
        gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
    finally:
        freeze(model)
    return torch.cat([gradient.float().reshape(-1) for gradient in gradients])


def _differ(found: Tensor, wanted: Tensor, scale: Tensor | None = None) -> bool:
    size = (wanted if scale is None else scale).norm()
    return bool((found - wanted).norm() > TOLERANCE * size + 1e-12)
