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
from dpbitfit.validate import ClippingNorm

if TYPE_CHECKING:
    from torch import nn

    from dpbitfit.engine.biases import BiasLayout

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


class _Rule(Part):
    def groups(self, model: "nn.Module", layout: "BiasLayout") -> Groups:
        """The groups of a layout, in the order in which they first occur there."""
        heads = {_layer(name) for name in layout.names if not name.endswith("bias")}
        numbers: dict[str, int] = {}
        members = np.empty(layout.size, np.int64)
        for name, _, place in layout.slices():
            layer = _layer(name)
            own = HEAD if layer in heads else self._group(model.get_submodule(layer), layer)
            members[place] = numbers.setdefault(own, len(numbers))
        return Groups(tuple(numbers), members, self._norms(tuple(numbers)))

    def _group(self, module: "nn.Module", layer: str) -> str:
        """The group of a bias of this layer."""
        return BIASES

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

    def _group(self, module: "nn.Module", layer: str) -> str:
        return layer

    def _norms(self, names: tuple[str, ...]) -> NDArray[np.float64]:
        return np.full(len(names), self.norm / math.sqrt(len(names)))


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

    def _group(self, module: "nn.Module", layer: str) -> str:
        return NORMALIZATION if "norm" in type(module).__name__.lower() else BIASES


Grouping = Annotated[PerLayer | HeadAndBiases | ByKind, Field(discriminator="rule")]


def _layer(name: str) -> str:
    return name.rpartition(".")[0]
