"""What a run is asked to do: the run configuration, typed and checked.

Its keys are flat: those of ``Settings`` below, those that fill a plan's phase, and the
task's own. ``OPTIONS`` lists all of them; the command line and ``[tool.flwr.app.config]``
follow from it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from dpbitfit.accounting.calibration import LARGEST_EPSILON
from dpbitfit.data.columns import Kind
from dpbitfit.data.run_data import RunData
from dpbitfit.engine.devices import Precision
from dpbitfit.errors import InputError
from dpbitfit.phases import SAMPLED, BiasPhase, DpZeroPhase
from dpbitfit.plan import ModelIdentity, Plan, SiteMetrics, TaskChoice
from dpbitfit.planner import Choices, PublicFacts, propose
from dpbitfit.schema import Option, Part, Scalar, build, options
from dpbitfit.tasks.base import TaskSettings
from dpbitfit.tasks.registry import TASKS, TEXT_CLASSIFICATION, resolve
from dpbitfit.validate import Delta, Evaluations, described, one_of

_PLACEHOLDER = 1.0  # a noise multiplier, before it is calibrated


class Settings(Part):
    """The keys that are no plan's. An empty string means "not given"."""

    task: Annotated[
        str, one_of(TASKS), described(f"What the model is trained for: {', '.join(TASKS)}.")
    ] = TEXT_CLASSIFICATION
    data: Annotated[
        str, described("CSV, TSV, JSONL, Parquet or Excel file, or module:function.")
    ] = ""
    labels: Annotated[str, described("The public label set: a,b,c or a .json or .txt file.")] = ""
    text_column: Annotated[str, described("Column of the text.")] = "text"
    label_column: Annotated[str, described("Column of the label.")] = "label"
    unit_column: Annotated[str, described("Column that names the person: the unit of privacy.")] = (
        ""
    )
    site_column: Annotated[str, described("Column that names the site.")] = ""
    sites: Annotated[int, described("Sites, where no column names them.", ge=1, le=10_000)] = 4
    skew: Annotated[
        float, described("Label skew between sites: Dirichlet with alpha 1/skew; 0: none.", ge=0)
    ] = 0.0
    test_data: Annotated[str, described("Public test file.")] = ""
    test_fraction: Annotated[
        float, described("Without a test file: the part held out and treated as public.")
    ] = 0.2
    declared_size: Annotated[
        int, described("Public size of every site; 0: made from the data, to one digit.", ge=0)
    ] = 0
    seed: Annotated[int, described("Of the partition only; never of the noise.")] = 0
    model: Annotated[str, described("Folder, hub id, or minilm.")] = "minilm"
    device: Annotated[
        Literal["cpu", "auto", "cuda"],
        described("Where simulated sites compute; auto: on a GPU where each is given one."),
    ] = "cpu"
    precision: Annotated[
        Precision,
        described(
            "In which their layers multiply; bfloat16: on a GPU, or a CPU with units for it."
        ),
    ] = "float32"
    target_epsilon: Annotated[
        float, described("Epsilon that the plan may cost a site.", gt=0, le=LARGEST_EPSILON)
    ] = 8.0
    delta: Annotated[Delta, described("Delta of every site.")] = 1e-5
    noise_multiplier: Annotated[
        float, described("Standard deviation of the noise, over the sensitivity; 0: calibrated.")
    ] = 0.0
    budget: Annotated[
        float, described("Epsilon of an account that is new; 0: the target.", ge=0)
    ] = 0.0
    ledger: Annotated[
        str, described("The coordinator's ledger: a path or a URL; empty: OUT/ledger, alone.")
    ] = ""
    site_ledgers: Annotated[str, described("Folder of the simulated sites' ledgers.")] = ""
    dataset: Annotated[str, described("The records' name in the ledger.")] = ""
    site_metrics: Annotated[
        str, described("What sites measure on records that they keep for that: accuracy,loss.")
    ] = ""
    site_evaluations: Annotated[Evaluations, described("How often they do; it is charged.")] = 0
    server_strategy: Annotated[
        Literal["fedavg", "fedadam", "fedmedian"], described("How the coordinator aggregates.")
    ] = "fedavg"
    server_learning_rate: Annotated[
        float, described("Of fedadam: about how far a round moves each value.", gt=0)
    ] = 0.1
    min_replies: Annotated[int, described("Replies that make a round count.", ge=1)] = 1
    round_timeout: Annotated[float, described("Seconds to wait for a round.", gt=0)] = 3600.0
    out: Annotated[str, described("Folder for the results; absolute in a configuration.")] = ""
    resume: Annotated[bool, described("Go on from the checkpoint in the results' folder.")] = False

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


class RunSettings(Part):
    """A whole run configuration, read."""

    run: Settings
    choices: Choices
    phase: BiasPhase | DpZeroPhase  # as chosen, with a placeholder for noise to be calibrated
    task: TaskSettings

    @property
    def needs_gradients(self) -> bool:
        """As of the plan."""
        return isinstance(self.phase, BiasPhase)

    @classmethod
    def read(cls, config: Mapping[str, Scalar]) -> Self:
        """Read a run configuration.

        The task's own keys may be left out: then they are as it declares. Raises InputError,
        naming the key, where another is missing, or one of a wrong type or out of range.
        """
        for part in (Settings, Choices, BiasPhase, DpZeroPhase):
            for option in options(part):
                if option.key not in config:
                    raise InputError(f"the run configuration lacks {option.key!r}")
        run = build(Settings, config)
        task = resolve(run.task, {})
        needs_labels = Kind.LABEL in task.columns.values()
        for key in ("out", "labels") if needs_labels else ("out",):
            if not config[key]:
                raise InputError(f"{key!r} is empty: give {HELP[key]}")
        if bool(run.site_metrics) != bool(run.site_evaluations):
            raise InputError(
                "'site-metrics' and 'site-evaluations' say what the sites measure and how often: "
                "give both, or neither"
            )
        planned = {option.key for option in options(Choices) if not config[option.key]}
        values = {key: value for key, value in config.items() if key not in planned}
        values["noise-multiplier"] = run.noise_multiplier or _PLACEHOLDER
        choices = build(Choices, config)
        return cls.checked(
            run=run,
            choices=choices,
            phase=build(choices.sampled, values),
            task=build(task.Settings, config),
        )

    def facts(self, labels: int, width: int) -> PublicFacts:
        """What the planner may know, with a head [K, d] that trains; 0 labels without one.

        Raises InputError where nothing says what the sites declare, and a phase of the head
        needs it, and for data that cannot be used.
        """
        run = self.run
        units = run.declared_size * run.sites
        if labels and self.choices.phases not in SAMPLED and not units:
            if not run.data:
                raise InputError("'declared-size' is 0: give the size that a site declares")
            data = RunData.of(run)
            sites = data.sites(resolve(run.task, {}).columns, run.sites, run.skew)
            units = sum(data.declared_sizes(sites).values())
        return PublicFacts(labels, width, run.sites, units)

    def plan(self, layout: str, model_digest: str, facts: PublicFacts) -> Plan:
        """The plan that every site is asked to accept; calibrated unless sigma is given."""
        run = self.run
        phases = propose(
            facts, run.target_epsilon, run.delta, self.choices, self.phase, run.noise_multiplier
        )
        names = tuple(filter(None, run.site_metrics.split(",")))
        return Plan.checked(
            dataset=run.dataset,
            unit=run.unit,
            delta=run.delta,
            # As the sites' policies call it.
            model=ModelIdentity(name=Path(run.model).name, digest=model_digest, layout=layout),
            task=TaskChoice(name=run.task, settings=self.task.model_dump()),
            phases=phases,
            site_metrics=SiteMetrics(names=names, evaluations=run.site_evaluations),
        )


def _options() -> tuple[Option, ...]:
    """Every option once; TypeError where one key would mean two things."""
    known = {option.key: option for part in (Settings, Choices) for option in options(part)}
    for phase in (BiasPhase, DpZeroPhase):
        for option in options(phase):
            known.setdefault(option.key, option)  # what is to be planned may be 0 here
    for name in TASKS:
        for option in options(resolve(name, {}).Settings):
            if known.setdefault(option.key, option) != option:
                raise TypeError(f"the task {name!r}: {option.key!r} is taken: give it a schema.Key")
    return tuple(known.values())


OPTIONS = _options()
HELP = {option.key: option.help for option in OPTIONS}
