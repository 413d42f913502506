"""What a run is asked to do: the run configuration, typed and checked."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

from flwr.serverapp.strategy import FedAdam, FedAvg, FedMedian

from dpbitfit.accounting.calibration import calibrate
from dpbitfit.errors import InputError
from dpbitfit.plan import Plan

Scalar = str | int | float | bool
STRATEGIES = ("fedavg", "fedadam", "fedmedian")


@dataclass(frozen=True)
class Settings:
    """The keys of ``[tool.flwr.app.config]`` that the server reads.

    An empty string means "not given"; ``noise_multiplier`` 0 means "calibrate
    it to the target", ``budget`` 0 that a new account may spend just the target.
    """

    data: str
    test_data: str
    test_fraction: float
    text_column: str
    label_column: str
    unit_column: str
    site_column: str
    dataset: str
    labels: str
    sites: int
    seed: int
    declared_size: int
    model: str
    head: str
    logit_scale: float
    max_length: int
    target_epsilon: float
    budget: float
    ledger: str
    delta: float
    noise_multiplier: float
    sampling_rate: float
    noise: str
    clipping: str
    clipping_norm: float
    rounds: int
    steps_per_round: int
    optimizer: str
    learning_rate: float
    site_metrics: str
    site_evaluations: int
    server_strategy: str
    server_learning_rate: float
    min_replies: int
    round_timeout: float
    out: str
    resume: bool

    @classmethod
    def read(cls, config: Mapping[str, Scalar]) -> Self:
        """Read the run configuration; InputError for a missing key or a wrong type."""
        values: dict[str, Scalar] = {}
        for field in fields(cls):
            key = field.name.replace("_", "-")
            if key not in config:
                raise InputError(f"the run configuration lacks {key!r}")
            value = config[key]
            if field.type is float and type(value) is int:
                value = float(value)
            if type(value) is not field.type:
                raise InputError(f"{key!r} must be a {field.type.__name__}, not {value!r}")  # type: ignore[union-attr]
            values[field.name] = value
        settings = cls(**values)  # type: ignore[arg-type]
        settings._check()
        return settings

    def _check(self) -> None:
        if not self.out:
            raise InputError("'out' is empty: give an absolute path for the results")
        if not self.labels:
            raise InputError("'labels' is empty: give the public label set")
        if self.server_strategy not in STRATEGIES:
            raise InputError(f"'server-strategy' must be one of {', '.join(STRATEGIES)}")
        if self.min_replies < 1 or not self.round_timeout > 0:
            raise InputError("'min-replies' and 'round-timeout' must be above 0")

    @property
    def folder(self) -> Path:
        """Where the results go."""
        return Path(self.out)

    @property
    def ledger_url(self) -> str:
        """Where the coordinator keeps its ledger: a path or a URL."""
        return self.ledger or str(self.folder / "ledger" / "coordinator.sqlite")

    @property
    def unit(self) -> str:
        """The unit of privacy: a record, or all records with one value of a column."""
        return self.unit_column or "record"

    def plan(self, layout_digest: str, model_digest: str) -> Plan:
        """The plan that every site is asked to accept; calibrated unless sigma is given."""
        steps = self.rounds * self.steps_per_round
        plan = Plan(
            layout_digest=layout_digest,
            model_digest=model_digest,
            noise_multiplier=self.noise_multiplier
            or calibrate(self.target_epsilon, self.delta, self.sampling_rate, steps),
            sampling_rate=self.sampling_rate,
            rounds=self.rounds,
            steps_per_round=self.steps_per_round,
            delta=self.delta,
            clipping=self.clipping,
            clipping_norm=self.clipping_norm,
            noise=self.noise,
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            unit=self.unit,
            dataset=self.dataset,
            model=Path(self.model).name,  # as the sites' policies call it
            head=self.head,
            logit_scale=self.logit_scale,
            max_length=self.max_length,
            metrics=self.site_metrics,
            evaluations=self.site_evaluations,
        )
        plan.check()
        return plan

    def strategy(self) -> FedAvg:
        """The Flower strategy that aggregates."""
        if self.server_strategy == "fedadam":
            return FedAdam(eta=self.server_learning_rate)
        return FedMedian() if self.server_strategy == "fedmedian" else FedAvg()
