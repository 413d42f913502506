"""What a plan is compared with: other weights that train, and training without privacy.

Only *what trains* and *how rows are made* differ: sampler, clipper, noise on the integer
grid, accounting and the phases of the head are the library's. Learning rates come from
publications and were not tuned here. No plan can name any of it: ``Plan.decode`` knows
neither ``WeightGradients`` nor ``NoNoise`` nor ``NoClipping`` (``tests/test_baselines.py``).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from dpbitfit.engine.biases import BiasLayout, freeze, read_biases, write_biases
from dpbitfit.engine.clipping import AutomaticClipping
from dpbitfit.engine.directions import Directions
from dpbitfit.engine.estimators import DirectionalDerivatives
from dpbitfit.engine.gradients import PerRecordGradients
from dpbitfit.engine.groups import HeadAndBiases
from dpbitfit.engine.groupwise import AdaptiveClipping, GroupwiseClipping
from dpbitfit.engine.optimizers import Adam
from dpbitfit.engine.training import train_round
from dpbitfit.phases import BiasPhase, HeadDescent, Phase
from dpbitfit.schema import Part
from dpbitfit.tasks.rounds import RoundStart, site_round

RANK, ADAPTED = 8, ("query", "value")  # Hu et al. 2021, arXiv 2106.09685, table 9: RoBERTa-base
LORA_RATE = 1e-3  # Yu et al. 2022, arXiv 2110.06500: their command for DP-LoRA on SST-2
# Bu et al. 2022, arXiv 2210.00036: their script for GLUE, after Li et al. 2110.05679
FULL_RATE = 5e-4
PLAIN_RATE = 1e-3
_LARGEST_RESIDUAL = 2.0  # at least the norm of softmax - onehot, which is at most sqrt(2)
_ALL = "class-sums,head,biases"
_FEW = {"estimator": DirectionalDerivatives(directions=8)}


@dataclass(frozen=True)
class Method:
    """The planner's choice of ``phases``, and how the method departs from what it proposes.

    ``train`` sets what of a task trains in place of its biases, beside the head, and returns
    what changes in the phase of biases.
    """

    phases: str
    head: str = "trained"
    layers: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)  # of its phase that samples
    train: Callable[[Any], dict[str, Any]] = lambda _: {}
    private: bool = True

    def phases_of(self, proposed: tuple[Phase, ...], changes: dict[str, Any]) -> tuple[Phase, ...]:
        """The phases as they run, with the ``changes`` that ``train`` returned."""
        # model_copy checks nothing: what is changed here is no part of any plan.
        phases = tuple(
            phase.model_copy(update=changes) if isinstance(phase, BiasPhase) else phase
            for phase in proposed
        )
        return phases if self.private else tuple(map(without_privacy, phases))


def lora(task: Any) -> dict[str, Any]:
    """Low-rank additions to the attention's queries and values; all sites begin from the same.

    Sites' changes are averaged factor by factor, as of any other parameter.
    """
    generator = torch.Generator().manual_seed(0)
    for module in [*task.model.modules()]:
        for name in ADAPTED:
            if isinstance(layer := getattr(module, name, None), nn.Linear):
                setattr(module, name, LowRank(layer, RANK, generator))
    _train_only(task, lambda name, _: ".down." in name or ".up." in name)
    return {"optimizer": Adam(learning_rate=LORA_RATE)}


def plain(_: Any) -> dict[str, Any]:
    """The same biases, at a rate for gradients without noise: by a larger one they forget."""
    return {"optimizer": Adam(learning_rate=PLAIN_RATE)}


def full(task: Any) -> dict[str, Any]:
    """All weights and biases of linear layers and LayerNorms; the embeddings are frozen."""
    _train_only(task, lambda _, owner: isinstance(owner, nn.Linear | nn.LayerNorm))
    return {"optimizer": Adam(learning_rate=FULL_RATE), "estimator": WeightGradients()}


METHODS = {
    "planner": Method("auto"),
    "head": Method("class-sums,head"),
    "biases": Method("biases", head="labels"),
    "all-phases": Method(_ALL),
    "top-half": Method(_ALL, layers=3),  # of MiniLM's six
    "top-layer": Method(_ALL, layers=1),
    "dp-zero": Method("class-sums,head,dp-zero", layers=1, settings=_FEW),
    "automatic": Method(_ALL, train=lambda _: {"clipping": AutomaticClipping(norm=1.0)}),
    "per-layer": Method(_ALL, train=lambda _: {"clipping": GroupwiseClipping()}),
    "adaptive": Method(_ALL, train=lambda _: {"clipping": AdaptiveClipping()}),
    "two-groups": Method(
        _ALL, train=lambda _: {"clipping": GroupwiseClipping(groups=HeadAndBiases())}
    ),
    "lora": Method(_ALL, train=lora),
    "full": Method(_ALL, train=full),
    "no-privacy": Method("auto", train=plain, private=False),
}


def _train_only(task: Any, chosen: Callable[[str, nn.Module], bool]) -> None:
    """Let the head and the chosen parameters, by name and owner, be what trains."""
    names = [
        name
        for name, _ in task.model.named_parameters()
        if name.startswith("head.") or chosen(name, _owner(task.model, name))
    ]
    shapes = [tuple(task.model.get_parameter(name).shape) for name in names]
    freeze(task.model)
    task.layout = BiasLayout(tuple(names), tuple(shapes))
    task.pretrained = read_biases(task.model, task.layout)


def _owner(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name.rpartition(".")[0])


class LowRank(nn.Module):
    """A frozen linear layer and a low-rank addition of zero at first, as Hu et al. begin it.

    Their scale alpha / r is 1.
    """

    def __init__(self, frozen: nn.Linear, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.frozen = frozen
        self.down = nn.Linear(frozen.in_features, rank, bias=False)
        self.up = nn.Linear(rank, frozen.out_features, bias=False)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5), generator=generator)
        nn.init.zeros_(self.up.weight)

    def forward(self, states: Tensor) -> Tensor:
        whole: Tensor = self.frozen(states) + self.up(self.down(states))
        return whole


class WeightGradients(Part):
    """The exact per-record gradient of linear layers and LayerNorms, weights and biases."""

    kind: Literal["weight-gradients"] = "weight-gradients"

    def attach(
        self, model: nn.Module, layout: BiasLayout, directions: None = None
    ) -> PerRecordGradients:
        return _WeightGradients(model, layout)


class _WeightGradients(PerRecordGradients):
    """The library's hooks, which know a linear layer's weight, and one for LayerNorm's.

    Of ``y = w * z + b`` with the normalised input z that is the sum over time of dL/dy * z.
    """

    def _hook(
        self, path: str, module: nn.Module, bias: str | None, weight: str | None
    ) -> Callable[[nn.Module, tuple[Any, ...], Any], Any]:
        if weight is None or not isinstance(module, nn.LayerNorm):
            return super()._hook(path, module, bias, weight)
        plain = super()._hook(path, module, bias, None)

        def hook(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
            started = plain(layer, inputs, output)
            if started is None:
                return None
            values, shape = self._values, module.normalized_shape
            normal = functional.layer_norm(inputs[0].detach(), shape, eps=module.eps)

            def collect(gradient: Tensor) -> None:
                products = (gradient * normal).float()  # [B, ..., *shape]
                row = products.reshape(len(products), -1, math.prod(shape)).sum(dim=1)
                values[weight] += row

            started.register_hook(collect)
            return started

        return hook


def round_of(
    task: Any,
    records: Any,
    cache: Any,
    phase: Phase,
    size: int,
    vector: Any,
    state: Any,
    directions: Directions,
) -> tuple[Any, Any]:
    """``site_round``; rows of all weights, which are 42 MB each in MiniLM, come one at a time."""
    if not isinstance(getattr(phase, "estimator", None), WeightGradients):
        return site_round(task, records, cache, RoundStart(phase, size, vector, state, directions))
    cache.drop()
    write_biases(task.model, task.layout, vector)
    return train_round(task.model, task.layout, records, phase, size, vector, state, token_budget=1)


def without_privacy(phase: Phase) -> Phase:
    """The phase with its steps and rates, no noise, and no row that is clipped."""
    changes: dict[str, Any] = {"noise": NoNoise()}
    if isinstance(phase, HeadDescent):
        changes["clipping_norm"] = _LARGEST_RESIDUAL
    if isinstance(phase, BiasPhase):
        changes["clipping"] = NoClipping()
    return phase.model_copy(update=changes)


class NoNoise(Part):
    """NO PRIVACY: sums as they are, on a grid. For comparison alone, and in no plan."""

    kind: Literal["none"] = "none"
    multiplier: Literal[0] = 0

    def source(self, sensitivity: float, grid: float = 0.0) -> "_Exact":
        return _Exact(grid or 2.0**-30)


@dataclass(frozen=True)
class _Exact:
    step: float

    def round_toward_zero(self, rows: torch.Tensor) -> torch.Tensor:
        return (rows / self.step).trunc().long()

    def release(self, total: NDArray[np.int64]) -> NDArray[np.float64]:
        return total.astype(np.float64) * self.step


class NoClipping(Part):
    """NO PRIVACY: rows as they are, of any length. For comparison alone, and in no plan."""

    function: Literal["none"] = "none"
    sensitivity: float = math.inf
    appended: ClassVar[int] = 0
    norms: ClassVar[None] = None

    def attach(self, model: Any, layout: Any, norms: Any = None) -> Self:
        return self

    def clip(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.double()

    def read(self, released: Any) -> tuple[Any, Self]:
        return released, self
