"""Ways to train a model whose steps are held against each other, each as its users would.

A method adds up micro-batches and then takes a step; one that is private clips each record's
gradient to ``NORM`` before it adds it, and takes noise. ``tests/test_engine_benchmark.py`` holds
that those on the same parameters add up the same.
"""

import copy
import importlib.util
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from opacus.grad_sample import GradSampleModule, GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from dpbitfit.engine.biases import BiasLayout, read_biases, select_biases, write_biases
from dpbitfit.engine.clipping import AbadiClipping
from dpbitfit.engine.determinism import deterministic
from dpbitfit.engine.gradients import PerRecordGradients
from dpbitfit.engine.noise import DiscreteGaussian
from dpbitfit.engine.optimizers import Adam, OptimizerState
from dpbitfit.engine.precision import has_units, use_bfloat16
from dpbitfit.engine.summing import UnitSum

NORM, NOISE, RATE = 1.0, 1.0, 1e-3
BASE, OURS, LOWER = "plain bias tuning", "dpbitfit", "dpbitfit, bfloat16"
Inputs = Mapping[str, Tensor]


class Method(Protocol):
    """One way to train."""

    def add(self, inputs: Inputs, labels: Tensor) -> None:
        """Add up the gradients of one micro-batch's records."""

    def total(self) -> dict[str, Tensor]:
        """The sum so far, by parameter."""

    def step(self) -> None:
        """Noise, if any, and the optimizer's step; then ``drop``."""

    def drop(self) -> None:
        """The sum begins anew."""


def losses(model: nn.Module, inputs: Inputs, labels: Tensor) -> Tensor:
    """One loss for each record [B]."""
    return functional.cross_entropy(model(**inputs), labels, reduction="none")


class Plain:
    """Ordinary training of ``trained``, without privacy."""

    def __init__(self, model: nn.Module, trained: list[str]) -> None:
        self.model = model
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in trained)
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.optimizer = self.wrap(torch.optim.Adam(self.parameters.values(), lr=RATE))

    def wrap(self, optimizer: torch.optim.Optimizer) -> Any:
        return optimizer

    def add(self, inputs: Inputs, labels: Tensor) -> None:
        losses(self.model, inputs, labels).sum().backward()

    def total(self) -> dict[str, Tensor]:
        return {name: parameter.grad for name, parameter in self.parameters.items()}

    def step(self) -> None:
        self.optimizer.step()
        self.drop()

    def drop(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)


class _Opacus(Plain):
    optimizers: type[DPOptimizer]

    def wrap(self, optimizer: torch.optim.Optimizer) -> Any:
        self.model = self.wrapped(self.model.train())
        for module in self.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        return self.optimizers(
            optimizer,
            noise_multiplier=NOISE,
            max_grad_norm=NORM,
            expected_batch_size=1,
            loss_reduction="sum",
        )

    def wrapped(self, model: nn.Module) -> nn.Module:
        raise NotImplementedError

    def total(self) -> dict[str, Tensor]:
        return {name: parameter.summed_grad for name, parameter in self.parameters.items()}

    def _keep(self) -> None:
        """Free the rows and keep their sum, as of a micro-batch that ends no step."""
        self.optimizer.signal_skip_step(True)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def step(self) -> None:
        self.optimizer.add_noise()
        self.optimizer.original_optimizer.step()
        self.drop()

    def drop(self) -> None:
        self.optimizer._is_last_step_skipped = False
        self.optimizer.zero_grad(set_to_none=True)


class OpacusHooks(_Opacus):
    """A gradient row for each record, as Opacus does by default."""

    optimizers = DPOptimizer

    def wrapped(self, model: nn.Module) -> nn.Module:
        return GradSampleModule(model, strict=False, loss_reduction="sum")

    def add(self, inputs: Inputs, labels: Tensor) -> None:
        losses(self.model, inputs, labels).sum().backward()
        self._keep()


class OpacusGhost(_Opacus):
    """Norms first, then a second backward pass of the weighted losses."""

    optimizers = DPOptimizerFastGradientClipping

    def wrapped(self, model: nn.Module) -> nn.Module:
        return GradSampleModuleFastGradientClipping(
            model, strict=False, loss_reduction="sum", max_grad_norm=NORM, use_ghost_clipping=True
        )

    def add(self, inputs: Inputs, labels: Tensor) -> None:
        criterion = nn.CrossEntropyLoss(reduction="sum")
        loss = DPLossFastGradientClipping(self.model, self.optimizer, criterion, "sum")
        loss(self.model(**inputs), labels).backward()
        self._keep()


class Functional(Plain):
    """Rows by torch.func: vmap over the gradient of one record."""

    def __init__(self, model: nn.Module, trained: list[str]) -> None:
        super().__init__(model, trained)
        self._frozen = {n: p.detach() for n, p in model.named_parameters() if n not in trained}
        self._sum: dict[str, Tensor] = {}

        def loss(values: dict[str, Tensor], inputs: Inputs, label: Tensor) -> Tensor:
            batch = {name: value[None] for name, value in inputs.items()}
            logits = functional_call(model, {**values, **self._frozen}, (), batch)
            return functional.cross_entropy(logits, label[None])

        self._rows = vmap(grad(loss), in_dims=(None, 0, 0))

    def add(self, inputs: Inputs, labels: Tensor) -> None:
        values = {name: parameter.detach() for name, parameter in self.parameters.items()}
        rows = self._rows(values, inputs, labels)
        norms = torch.stack([row.flatten(1).norm(dim=1) for row in rows.values()]).norm(dim=0)
        factors = (NORM / norms.clamp(min=1e-9)).clamp(max=1.0)
        for name, row in rows.items():
            added = torch.einsum("b,b...->...", factors, row)
            self._sum[name] = self._sum[name] + added if name in self._sum else added

    def total(self) -> dict[str, Tensor]:
        return self._sum

    def step(self) -> None:
        for name, parameter in self.parameters.items():
            noise = torch.randn_like(parameter) * (NOISE * NORM)
            parameter.grad = self._sum[name] + noise
        super().step()

    def drop(self) -> None:
        self._sum = {}
        super().drop()


class FastDP(Plain):
    """awslabs/fast-differential-privacy, where it is installed; as its README says."""

    def wrap(self, optimizer: torch.optim.Optimizer) -> Any:
        from fastDP import PrivacyEngine

        engine = PrivacyEngine(
            self.model,
            batch_size=1,
            sample_size=1000,
            noise_multiplier=NOISE,
            epochs=1,
            clipping_mode="MixOpt",
            clipping_style="all-layer",
            max_grad_norm=NORM,
            origin_params=None,
        )
        engine.attach(optimizer)
        return optimizer


class Ours:
    """The library's own rows, clipping, integer sum, noise and optimizer."""

    def __init__(self, model: nn.Module, layout: BiasLayout, lower: bool = False) -> None:
        """``lower``: layers multiply in bfloat16."""
        if lower:
            use_bfloat16(model, layout)
        self.model, self.layout = model, layout
        self.estimator = PerRecordGradients(model, layout).__enter__()
        self.clipper = AbadiClipping(norm=NORM)
        self.noise = DiscreteGaussian(self.clipper.sensitivity, NOISE)
        self._values, self._state = read_biases(model, layout).astype(np.float64), OptimizerState()
        self._sum = self._zeros()

    def _zeros(self) -> Tensor:
        device = next(self.model.parameters()).device
        return torch.zeros(self.layout.size, dtype=torch.int64, device=device)

    def add(self, inputs: Inputs, labels: Tensor) -> None:
        places = np.arange(len(labels))
        with deterministic():
            rows = self.rows(inputs, labels)
            units = [np.array([place]) for place in places]
            summed = UnitSum(units, places, self.clipper, self.noise, self._sum)
            summed.ready(range(len(rows)), rows)()

    def rows(self, inputs: Inputs, labels: Tensor) -> Tensor:
        """Each record's row [B, P]."""
        return self.estimator.rows(partial(losses, self.model, inputs, labels), len(labels))

    def total(self) -> dict[str, Tensor]:
        values = self._sum.double() * self.noise.step
        return {name: values[place].view(shape) for name, shape, place in self.layout.slices()}

    def step(self) -> None:
        self.release(self._sum.cpu().numpy())
        self.drop()

    def drop(self) -> None:
        self._sum = self._zeros()

    def release(self, total: Any) -> None:
        """Noise and step on a sum of integers [P]."""
        gradient = self.noise.release(total)
        adam = Adam(learning_rate=RATE)
        self._values, self._state = adam.descend(self._values, gradient, self._state, 10**6)
        write_biases(self.model, self.layout, self._values.astype(np.float32))


def methods(model: nn.Module) -> dict[str, Callable[[], Method]]:
    """Each method on a copy of ``model`` of its own, made when it is called."""
    layout, everything = select_biases(model.eval()), _weights(model)
    device = next(model.parameters()).device

    def on(kind: Callable[..., Method], *options: Any) -> Callable[[], Method]:
        return lambda: kind(copy.deepcopy(model), *options)

    biases = [*layout.names]
    made = {
        BASE: on(Plain, biases),
        OURS: on(Ours, layout),
        "Opacus on biases, hooks": on(OpacusHooks, biases),
        "Opacus on biases, ghost": on(OpacusGhost, biases),
        "torch.func on biases": on(Functional, biases),
        "non-private full": on(Plain, everything),
        "DP full, Opacus hooks": on(OpacusHooks, everything),
        "DP full, Opacus ghost": on(OpacusGhost, everything),
    }
    if has_units(device):
        made[LOWER] = on(Ours, layout, True)
    if importlib.util.find_spec("fastDP"):
        made["FastDP on biases"] = on(FastDP, biases)
        made["DP full, FastDP"] = on(FastDP, everything)
    return made


def row_difference(model: nn.Module, inputs: Inputs, labels: Tensor) -> float:
    """By how much of its norm a record's row in bfloat16 differs from float32's, at most."""
    layout = select_biases(model)
    kinds = [Ours(copy.deepcopy(model), layout, lower) for lower in (False, True)]
    rows, lower = (kind.rows(inputs, labels) for kind in kinds)
    return ((rows - lower).norm(dim=1) / rows.norm(dim=1)).max().item()


def _weights(model: nn.Module) -> list[str]:
    """All that full fine-tuning trains but embeddings, whose rows alone would fill the memory."""
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    return [name for name, p in model.named_parameters() if id(p) not in tables]
