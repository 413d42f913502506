"""Groups of trained values that are clipped apart, each to a norm of its own.

A plan names a rule, never a list of places: what a rule makes of a layout is a partition,
so that no group overlaps another and no value is left out, whatever a coordinator sends.

To add a rule: a class here, with a ``rule`` of its own, and its name in ``Grouping``.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from dpbitfit.schema import Key, Part
from dpbitfit.validate import ClippingNorm, whole

if TYPE_CHECKING:
    from torch import nn

    from dpbitfit.engine.biases import BiasLayout

Allocation = Literal["equal-budget", "equal", "least-total"]  # of noise to groups
HEAD, BIASES, NORMALIZATION = "head", "biases", "normalization"


@dataclass(frozen=True)
class Groups:
    """Which group each value of the packed vector is in [P], from 0, and each group's norm [G]."""

    names: tuple[str, ...]
    members: NDArray[np.int64]
    norms: NDArray[np.float64]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """How many values each group has [G]."""
        return np.bincount(self.members, minlength=len(self.names))

    def scales(self, allocation: Allocation) -> NDArray[np.float64]:
        """gamma [G]: a group's noise over the multiplier and the sensitivity."""
        norms = relative = self.norms
        if allocation == "equal":
            relative = np.ones_like(norms)
        elif allocation == "least-total":
            relative = np.sqrt(norms / np.sqrt(self.sizes))
        scales: NDArray[np.float64] = relative * np.linalg.norm(norms / relative)
        return scales


class _Rule(Part):
    def groups(self, model: "nn.Module", layout: "BiasLayout") -> Groups:
        """The groups of a layout, in the order in which they first occur there."""
        heads = {_layer(name) for name in layout.names if not name.endswith("bias")}
        numbers: dict[str, int] = {}
        members = np.empty(layout.size, np.int64)
        for name, _, place in layout.slices():
            layer = _layer(name)
            own = self._group(model, layer, layer in heads)
            members[place] = numbers.setdefault(own, len(numbers))
        return Groups(tuple(numbers), members, self._norms(tuple(numbers)))

    def _group(self, model: "nn.Module", layer: str, is_head: bool) -> str:
        """The group of what trains of this layer."""
        return HEAD if is_head else BIASES

    def _norms(self, names: tuple[str, ...]) -> NDArray[np.float64]:
        raise NotImplementedError


class PerLayer(_Rule):
    """Each layer's biases are a group, and the head; together they are clipped to ``norm``."""

    rule: Literal["per-layer"] = "per-layer"
    norm: Annotated[ClippingNorm, Key("clipping-norm")] = 1.0

    @property
    def largest(self) -> float:
        """A bound on the norm of a clipped row, and on any group's norm times sqrt(G)."""
        return self.norm

    def _group(self, model: "nn.Module", layer: str, is_head: bool) -> str:
        return HEAD if is_head else layer

    def _norms(self, names: tuple[str, ...]) -> NDArray[np.float64]:
        return np.full(len(names), self.norm / math.sqrt(len(names)))


class PerStage(PerLayer):
    """Each of ``stages``, of consecutive layers (``split.stages_of``); together ``norm``.

    A model split as far clips each where it lies; one that is whole releases the same.
    """

    rule: Literal["per-stage"] = "per-stage"  # type: ignore[assignment]
    stages: Annotated[
        int,
        Key("clipping-stages"),
        whole(2, 1024, "Stages to which clipping groups per-stage cut a model's layers."),
    ] = 2

    def _group(self, model: "nn.Module", layer: str, is_head: bool) -> str:
        from dpbitfit.engine.split import stages_of

        return f"stage {stages_of(model, self.stages)[id(model.get_submodule(layer))]}"


class HeadAndBiases(_Rule):
    """The head, weight and bias, and all other biases."""

    rule: Literal["head-and-biases"] = "head-and-biases"
    head_norm: Annotated[
        ClippingNorm, Key("head-clipping-norm"), Field(description="L2 norm of the head's part.")
    ] = 1.0
    biases_norm: Annotated[
        ClippingNorm,
        Key("biases-clipping-norm"),
        Field(description="L2 norm of the part of the biases."),
    ] = 1.0

    @property
    def largest(self) -> float:
        """As of ``PerLayer``."""
        norms = self._by_name().values()
        return math.sqrt(len(norms)) * max(norms)

    def _by_name(self) -> dict[str, float]:
        return {HEAD: self.head_norm, BIASES: self.biases_norm}

    def _norms(self, names: tuple[str, ...]) -> NDArray[np.float64]:
        return np.array([self._by_name()[name] for name in names])


class ByKind(HeadAndBiases):
    """The head, the biases of LayerNorm and its like, and all other biases."""

    rule: Literal["by-kind"] = "by-kind"  # type: ignore[assignment]
    normalization_norm: Annotated[
        ClippingNorm,
        Key("normalization-clipping-norm"),
        Field(description="L2 norm of the part of LayerNorm's biases and its like."),
    ] = 1.0

    def _by_name(self) -> dict[str, float]:
        return {**super()._by_name(), NORMALIZATION: self.normalization_norm}

    def _group(self, model: "nn.Module", layer: str, is_head: bool) -> str:
        if is_head:
            return HEAD
        module = model.get_submodule(layer)
        return NORMALIZATION if "norm" in type(module).__name__.lower() else BIASES


Grouping = Annotated[PerLayer | PerStage | HeadAndBiases | ByKind, Field(discriminator="rule")]


def _layer(name: str) -> str:
    return name.rpartition(".")[0]
