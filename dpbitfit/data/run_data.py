"""The data of a run on a researcher's own records: for training, for testing, for each site.

Coordinator, simulated sites and command line all read it here, so that they agree on
which records are held out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self

from dpbitfit.data.columns import Kind
from dpbitfit.data.labels import read_labels
from dpbitfit.data.partition import count_units, hold_out, natural_sites, split
from dpbitfit.data.tables import Table, read_table

if TYPE_CHECKING:
    from dpbitfit.settings import Settings


@dataclass(frozen=True)
class RunData:
    """Where a run's records are and how they are split; an empty string means "not given".

    The fields are keys of the run configuration, with underscores for dashes.
    """

    data: str
    labels: str
    text_column: str
    label_column: str
    unit_column: str
    site_column: str
    test_data: str
    test_fraction: float
    seed: int

    @classmethod
    def of(cls, settings: "Settings") -> Self:
        """The part of a run's settings that says where the records are."""
        return cls(**{field.name: getattr(settings, field.name) for field in fields(cls)})

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> Self:
        """The part of a run configuration that says where the records are."""
        return cls(**{field.name: config[field.name.replace("_", "-")] for field in fields(cls)})

    def label_set(self) -> tuple[str, ...]:
        """The public label set; raises as ``read_labels``."""
        return read_labels(self.labels)

    def sites(self, columns: Mapping[str, Kind], count: int, skew: float) -> dict[str, Table]:
        """The training records of each site by its name; one may have none.

        The sites are as the data names them, or dealt to ``count`` of them. ``columns``
        are the task's. Raises InputError for data that cannot be used.
        """
        training, test = self._split(columns)
        if self.site_column:
            return natural_sites(training, test)
        parts = split(training, count, skew, self.seed)
        return {f"site-{number}": part for number, part in enumerate(parts, start=1)}

    def test(self, columns: Mapping[str, Kind]) -> Table:
        """The public test records; raises as ``sites``."""
        if self.test_data:
            return read_table(self.test_data, columns, self.label_set(), self._names)
        return self._split(columns)[1]

    def _split(self, columns: Mapping[str, Kind]) -> tuple[Table, Table]:
        """All records but those that are held out as a test, and these."""
        table = read_table(
            self.data,
            columns,
            self.label_set(),
            self._names,
            self.unit_column or None,
            self.site_column or None,
        )
        if self.test_data:
            return table, table.take([])
        return hold_out(table, self.test_fraction, self.seed)

    def declared_sizes(self, sites: Mapping[str, Table]) -> dict[str, int]:
        """The size of each site that a researcher would declare: to one digit, at least 1."""
        if self.site_column:
            return {name: _to_one_digit(count_units(part)) for name, part in sites.items()}
        # Parts of a split are meant to be alike.
        mean = sum(map(count_units, sites.values())) / len(sites)
        return dict.fromkeys(sites, _to_one_digit(mean))

    @property
    def _names(self) -> dict[str, str]:
        """What the files call the columns of a task."""
        return {"text": self.text_column, "label": self.label_column}


def _to_one_digit(count: float) -> int:
    # All records of a site that the data names may be held out.
    return int(float(f"{max(count, 1):.0e}"))
