"""Dealing one data set out to simulated sites. Seeded: a partition is no secret."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dpbitfit.errors import InputError
from dpbitfit.tables import Examples

Indices = NDArray[np.int64]


def hold_out(examples: Examples, fraction: float, seed: int) -> tuple[Examples, Examples]:
    """Split into (training, public test); all records of a unit fall on one side.

    Raises InputError unless both sides get at least one unit.
    """
    if not 0 < fraction < 1:
        raise InputError(f"the test fraction must be between 0 and 1, not {fraction!r}")
    groups = _units(examples)
    order = np.random.default_rng(seed).permutation(len(groups))
    tested = round(fraction * len(groups))
    if not 0 < tested < len(groups):
        raise InputError(f"a test fraction of {fraction:g} leaves the test or the sites nothing")
    test, train = order[:tested], order[tested:]
    return examples.take(_join(groups, train)), examples.take(_join(groups, test))


def split(examples: Examples, sites: int, skew: float, seed: int) -> list[Examples]:
    """Deal the units out to ``sites``.

    ``skew`` 0 deals at random; above 0, each label's units follow a Dirichlet
    distribution over the sites with concentration 1 / skew (Hsu et al. 2019,
    arXiv 1909.06335). Raises InputError for fewer units than sites.
    """
    if sites < 1:
        raise InputError(f"there must be at least one site, not {sites}")
    if not 0 <= skew <= 1e6:
        raise InputError(f"the skew must be 0 or more, not {skew!r}")
    groups = _units(examples)
    if sites > len(groups):
        raise InputError(f"{sites} sites are more than there are records or units to share")
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(groups))
    if skew == 0:
        owner = np.arange(len(groups)) % sites
    else:
        owner = np.empty(len(groups), dtype=np.int64)
        labels = np.array([examples.labels[groups[unit][0]] for unit in order])
        for label in np.unique(labels):
            shares = generator.dirichlet(np.full(sites, 1 / skew))
            members = np.flatnonzero(labels == label)
            owner[members] = generator.choice(sites, size=len(members), p=shares)
        _fill_empty(owner, sites)
    return [examples.take(_join(groups, order[owner == site])) for site in range(sites)]


def natural_sites(examples: Examples) -> dict[str, Examples]:
    """The examples of each site that the data names, in the order of the names."""
    if examples.sites is None:
        raise InputError("the data names no sites; give the column that does")
    members: dict[str, list[int]] = {}
    for index, site in enumerate(examples.sites):
        members.setdefault(site, []).append(index)
    return {site: examples.take(members[site]) for site in sorted(members)}


def _units(examples: Examples) -> list[Indices]:
    """The records of each unit; without units, each record is its own."""
    if examples.units is None:
        return list(np.arange(len(examples), dtype=np.int64).reshape(-1, 1))
    members: dict[str, list[int]] = {}
    for index, unit in enumerate(examples.units):
        members.setdefault(unit, []).append(index)
    return [np.array(indices, dtype=np.int64) for indices in members.values()]


def _join(groups: Sequence[Indices], chosen: Indices) -> Indices:
    return np.sort(np.concatenate([groups[unit] for unit in chosen]))


def _fill_empty(owner: Indices, sites: int) -> None:
    """Give every site without a unit one from the site with the most."""
    for site in range(sites):
        if not (owner == site).any():
            largest = np.bincount(owner, minlength=sites).argmax()
            owner[np.flatnonzero(owner == largest)[0]] = site
