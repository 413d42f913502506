"""Group-wise clipping: each group of values to its own norm (He et al. 2023, arXiv 2212.01539).

A unit's row x is clipped group by group to norms C_g, and handed on as x_g / gamma_g with
public scales gamma_g, normalised so that the sum of (C_g / gamma_g)^2 is 1. On that row there is
one grid and one draw of noise, as for any other; what is released is multiplied by gamma_g, which
is post-processing, so that group g has noise of deviation multiplier * sensitivity * gamma_g.

With adaptive norms a row gets G more values, w/2 for a group that was not clipped and -w/2 for
one that was: gradient and quantiles are one row of one mechanism with the plan's multiplier. The
norms of the next step follow from the noised shares (Andrew et al. 2021, arXiv 1905.03871).
Gradients are those of the layout's own values: no other estimator's rows have groups.

*Formal guarantee*: every row that ``clip`` returns is a function of its own row and public
numbers alone, to the bit, and has an L2 norm of at most ``sensitivity``. Norms in use are
functions of released values alone.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from dpbitfit.engine.groups import Allocation, Grouping, Groups, PerLayer
from dpbitfit.engine.row_norms import SAFETY, row_norms
from dpbitfit.schema import Key, Part
from dpbitfit.validate import real

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from dpbitfit.engine.biases import BiasLayout
    from dpbitfit.engine.split import DevicePart

Vector = NDArray[np.float64]
FURTHEST = 1000.0  # by which factor an adaptive norm may leave the plan's


class _Groupwise(Part):
    groups: Annotated[
        Grouping,
        Key("clipping-groups"),
        Field(description="Which values are clipped together, by group-wise clipping."),
    ] = PerLayer()
    allocation: Annotated[
        Allocation,
        Key("noise-allocation"),
        Field(
            description="A group's noise: in proportion to its norm (equal-budget), the same "
            "for all (equal), or so that the total is least (least-total)."
        ),
    ] = "equal-budget"

    @property
    def sensitivity(self) -> float:
        """The largest L2 norm of a scaled, clipped row."""
        return 1.0

    @property
    def largest(self) -> float:
        """A bound on a clipped gradient's norm, and on a value's noise over the multiplier."""
        return self.groups.largest

    @property
    def words(self) -> str:
        """What it does, in a few words."""
        return f"clipped in groups ({self.groups.rule}), noise by {self.allocation}"

    def attach(
        self, model: "nn.Module", layout: "BiasLayout", norms: Vector | None = None
    ) -> "GroupClipper":
        """At work on rows of this layout [B, P]; ``norms`` [G] are those that were adapted to."""
        groups = self.groups.groups(model, layout)
        places = _Places.of(groups, model.get_parameter(layout.names[0]).device)
        return GroupClipper(self.allocation, groups, groups.scales(self.allocation), places)


class GroupwiseClipping(_Groupwise):
    """Fixed norms."""

    function: Literal["group-wise"] = "group-wise"


class AdaptiveClipping(_Groupwise):
    """Norms that follow a quantile of the units' own, from those of the plan.

    ``C_g <- C_g exp(-rate (b_g - quantile))``, where ``b_g`` is the noised share of units whose
    norm is at most ``C_g``. ``quantile_cost`` is the price: by so much the gradients' noise
    grows, and the shares' noise is what it buys.
    """

    function: Literal["adaptive"] = "adaptive"
    quantile: Annotated[
        float,
        Key("clipping-quantile"),
        real(0.01, 0.99, "Share of units that an adaptive norm leaves unclipped."),
    ] = 0.5
    norm_rate: Annotated[
        float, Key("clipping-norm-rate"), real(0.001, 1, "How fast adaptive norms move.")
    ] = 0.3
    quantile_cost: Annotated[
        float,
        Key("clipping-quantile-cost"),
        real(1e-4, 1, "By how much adaptive norms raise the gradients' noise, as a share."),
    ] = 0.01

    @property
    def sensitivity(self) -> float:
        """The largest L2 norm of a scaled, clipped row with its G indicators."""
        return 1 + self.quantile_cost

    @property
    def largest(self) -> float:
        """As of fixed norms, wherever these have moved."""
        return FURTHEST * self.sensitivity * self.groups.largest

    @property
    def words(self) -> str:
        """What it does, in a few words."""
        return f"{super().words}, norms at the noised quantile {self.quantile:g}"

    def attach(
        self, model: "nn.Module", layout: "BiasLayout", norms: Vector | None = None
    ) -> "GroupClipper":
        """At work on rows of this layout [B, P]; ``norms`` [G] are those that were adapted to."""
        fixed = super().attach(model, layout)
        groups = fixed.groups if norms is None else replace(fixed.groups, norms=norms)
        scales, start = groups.scales(self.allocation), fixed.groups.norms
        return AdaptiveGroupClipper(self.allocation, groups, scales, fixed.places, self, start)


@dataclass(frozen=True)
class _Places:
    """Where the groups' values lie, on the rows' device: [n, W] for all n groups of W values."""

    members: "Tensor"
    of_size: "list[tuple[Tensor, Tensor]]"  # numbers of groups [n], and their places [n, W]

    @classmethod
    def of(cls, groups: Groups, device: "torch.device") -> "_Places":
        import torch

        order = np.argsort(groups.members, kind="stable")
        parts = np.split(order, np.cumsum(groups.sizes)[:-1])
        numbers: dict[int, list[int]] = defaultdict(list)
        for number, part in enumerate(parts):
            numbers[len(part)].append(number)
        return cls(
            torch.from_numpy(groups.members).to(device),
            [
                (
                    torch.tensor(alike, device=device),
                    torch.from_numpy(np.stack([parts[number] for number in alike])).to(device),
                )
                for alike in numbers.values()
            ],
        )


@dataclass(frozen=True)
class GroupClipper:
    """Clips rows [B, P] to the groups' norms in use [G]; see the module."""

    allocation: Allocation
    groups: Groups
    scales: Vector  # gamma [G]
    places: _Places

    @property
    def sensitivity(self) -> float:
        """The largest L2 norm of a row that ``clip`` returns."""
        return 1.0

    @property
    def appended(self) -> int:
        """How many values ``clip`` appends to a row."""
        return 0

    @property
    def norms(self) -> Vector | None:
        """What the next round has to know: adapted norms [G]."""
        return None

    def clip(self, rows: "Tensor") -> "Tensor":
        """Gradient rows [B, P], float32, clipped by group and scaled, in float64.

        A row of zeros stays zero, and a group that is not finite becomes zero.
        """
        return self._clipped(rows)[0]

    def of_parts(
        self, parts: "Sequence[DevicePart]"
    ) -> list[tuple[Self, NDArray[np.int64]]] | None:
        """For each device's part: what clips it there, and where its sum lies in the whole one.

        None where a group has values on several devices.
        """
        split, size = [], len(self.groups.members)
        for part in parts:
            numbers, members = np.unique(self.groups.members[part.places], return_inverse=True)
            names = tuple(self.groups.names[number] for number in numbers)
            groups = Groups(names, members, self.groups.norms[numbers])
            places = _Places.of(groups, part.device)
            clipper = replace(self, groups=groups, scales=self.scales[numbers], places=places)
            appended = size + numbers[: clipper.appended]
            split.append((clipper, np.concatenate([part.places, appended])))
        several = sum(len(own.groups.names) for own, _ in split) > len(self.groups.names)
        return None if several else split

    def read(self, released: Vector) -> tuple[Vector, "GroupClipper"]:
        """The gradient [P] of a noised, averaged row, and the clipper of the next step."""
        return released[: len(self.groups.members)] * self.scales[self.groups.members], self

    def _clipped(self, rows: "Tensor") -> "tuple[Tensor, Tensor]":
        """Scaled rows [B, P], and which groups were not clipped [B, G]."""
        exact = rows.double()
        lengths = exact.new_empty((len(exact), len(self.groups.names)))  # [B, G]
        for numbers, places in self.places.of_size:
            lengths[:, numbers] = row_norms(exact[:, places]).squeeze(-1)
        norms = lengths.new_tensor(self.groups.norms)
        shares = lengths.new_tensor(self.groups.norms / self.scales * SAFETY)
        factors = shares / lengths.maximum(norms)  # of a scaled row, [B, G]
        factors.nan_to_num_(0.0)
        clipped = exact.nan_to_num(0.0, 0.0, 0.0) * factors[:, self.places.members]
        return clipped, lengths <= norms


@dataclass(frozen=True)
class AdaptiveGroupClipper(GroupClipper):
    """With an indicator for each group, from which the next norms follow."""

    settings: AdaptiveClipping
    start: Vector  # the plan's own norms [G]

    @property
    def sensitivity(self) -> float:
        """The largest L2 norm of a row that ``clip`` returns."""
        return self.settings.sensitivity

    @property
    def appended(self) -> int:
        """One value a group."""
        return len(self.groups.names)

    @property
    def norms(self) -> Vector:
        """What the next round has to know: adapted norms [G]."""
        return self.groups.norms

    @property
    def weight(self) -> float:
        """Of an indicator: so that all of them bring the row's norm from 1 to the sensitivity."""
        return 2 * math.sqrt((self.sensitivity**2 - 1) / len(self.start))

    def clip(self, rows: "Tensor") -> "Tensor":
        """Rows [B, P + G]: clipped, and weighted indicators of what was not clipped."""
        import torch

        clipped, unclipped = self._clipped(rows)
        return torch.cat([clipped, (unclipped.double() - 0.5) * self.weight], dim=1)

    def read(self, released: Vector) -> tuple[Vector, "AdaptiveGroupClipper"]:
        """The gradient [P] of a noised, averaged row, and the clipper of the next step."""
        gradient, _ = super().read(released)
        shares = np.clip(released[len(gradient) :] / self.weight + 0.5, 0.0, 1.0)
        moved = self.norms * np.exp(self.settings.norm_rate * (self.settings.quantile - shares))
        norms = np.clip(moved, self.start / FURTHEST, self.start * FURTHEST)
        groups = replace(self.groups, norms=norms)
        return gradient, replace(self, groups=groups, scales=groups.scales(self.allocation))
