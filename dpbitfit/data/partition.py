"""Dealing one data set out to simulated sites. Seeded: a partition is no secret.

*Formal guarantee*: where a unit goes (to the test set, to which site) follows from
the seed and the unit alone, never from its row or from the others. So files that
differ in one unit give sites that differ in that unit.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dpbitfit.data.tables import Table
from dpbitfit.errors import InputError


def hold_out(table: Table, fraction: float, seed: int) -> tuple[Table, Table]:
    """Split into (training, public test); all records of a unit fall on one side.

    A unit is tested with probability ``fraction``, so that the sizes are roughly
    right. Raises InputError unless both sides get at least one unit.
    """
    if not 0 < fraction < 1:
        raise InputError(f"the test fraction must be between 0 and 1, not {fraction!r}")
    tested = _uniforms(table, seed, "test") < fraction
    if tested.all() or not tested.any():
        raise InputError(f"a test fraction of {fraction:g} leaves the test or the sites nothing")
    return table.take(np.flatnonzero(~tested)), table.take(np.flatnonzero(tested))


def split(table: Table, sites: int, skew: float, seed: int) -> list[Table]:
    """Deal the units out to ``sites``; one with few units may get none.

    ``skew`` 0 deals at random; above 0, the units of each value of the column ``label``
    follow a Dirichlet distribution over the sites with concentration 1 / skew (Hsu et al.
    2019, arXiv 1909.06335), a unit of several labels that of its most frequent one.
    Raises InputError for fewer units than sites.
    """
    if sites < 1:
        raise InputError(f"there must be at least one site, not {sites}")
    if not 0 <= skew <= 1e6:
        raise InputError(f"the skew must be from 0 to 1,000,000, not {skew!r}")
    if sites > count_units(table):
        raise InputError(f"{sites} sites are more than there are records or units to share")
    uniforms = _uniforms(table, seed, "site")
    if skew == 0:
        owner = (uniforms * sites).astype(np.int64)
    else:
        labels = _labels(table)
        owner = np.empty(len(table), dtype=np.int64)
        for label in np.unique(labels).tolist():
            # A generator for each label: which others there are must not matter.
            generator = np.random.default_rng(_hash(seed, "shares", label))
            shares = generator.dirichlet(np.full(sites, 1 / skew))
            bounds = np.cumsum(shares)[:-1]  # the last site gets what rounding leaves
            members = labels == label
            owner[members] = np.searchsorted(bounds, uniforms[members], side="right")
    return [table.take(np.flatnonzero(owner == site)) for site in range(sites)]


def natural_sites(table: Table, others: Table) -> dict[str, Table]:
    """The records of each site that the data names, in the order of the names.

    A site all of whose records are among the ``others``, held out as a test, has none.
    """
    if table.sites is None or others.sites is None:
        raise InputError("the data names no sites; give the column that does")
    members: dict[str, list[int]] = {site: [] for site in {*table.sites, *others.sites}}
    for index, site in enumerate(table.sites):
        members[site].append(index)
    return {site: table.take(members[site]) for site in sorted(members)}


def count_units(table: Table) -> int:
    """How many units there are; without units, each record is its own."""
    return len(table) if table.units is None else len(set(table.units))


def count_at_several(sites: Sequence[Table]) -> int:
    """How many persons have records at more than one of some sites."""
    at = Counter(unit for site in sites for unit in set(site.units or ()))
    return sum(times > 1 for times in at.values())


def _uniforms(table: Table, seed: int, purpose: str) -> NDArray[np.float64]:
    """A number in [0, 1) for each record [n], the same for all of a unit."""
    names: list[object]
    if table.units is not None:
        names = list(table.units)
    else:
        # Equal records are told apart by rank: which of them is which makes no difference.
        seen: Counter[object] = Counter()
        names = []
        columns = *table.columns.values(), table.sites or [""] * len(table)
        for content in zip(*columns, strict=True):
            names.append((*content, seen[content]))
            seen[content] += 1
    return np.array([(_hash(seed, purpose, name) >> 11) * 2.0**-53 for name in names])


def _labels(table: Table) -> NDArray[np.int64]:
    """For each record [n] its unit's most frequent label, the first of equally frequent ones."""
    labels = table.columns["label"]
    if table.units is None:
        return np.array(labels, dtype=np.int64)
    counts: dict[str, Counter[int]] = {}
    for unit, label in zip(table.units, labels, strict=True):
        counts.setdefault(unit, Counter())[label] += 1
    chosen = {
        unit: min(count, key=lambda label: (-count[label], label)) for unit, count in counts.items()
    }
    return np.array([chosen[unit] for unit in table.units], dtype=np.int64)


def _hash(seed: int, purpose: str, name: object) -> int:
    """A 64-bit hash of a name, keyed by the seed."""
    key = hashlib.sha256(str(seed).encode()).digest()
    content = json.dumps([purpose, name]).encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8, key=key).digest())
