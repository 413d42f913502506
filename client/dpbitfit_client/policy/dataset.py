"""Records that a site's policy allows work on, and the budgets of that work."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator

from dpbitfit.errors import BudgetError, PolicyError
from dpbitfit.faults import fault, located
from dpbitfit.plan import Plan
from dpbitfit.tasks.registry import TASKS, TEXT_CLASSIFICATION, resolve
from dpbitfit.validate import (
    DeclaredSize,
    Delta,
    Epsilon,
    Import,
    NoiseMultiplier,
    PlainName,
    one_of,
)
from dpbitfit_client.policy.document import Table
from dpbitfit_client.policy.limits import Limits
from dpbitfit_client.policy.value_types import (
    Column,
    Labels,
    NameIn,
    RecordsFile,
    UnitColumn,
)


class Records(Table):
    """Some records, and the budget of everything that is computed from them.

    They are in the file ``path``, or what ``package.module:function`` returns.
    ``declared_size`` is a public constant that stands for the number of units;
    ``epsilon``, at ``delta``, is the budget of every coordinator together.
    """

    loader: Import | None = None
    path: RecordsFile | None = Field(default=None, validate_default=True)
    unit_column: UnitColumn | None = None
    declared_size: DeclaredSize
    epsilon: Epsilon
    delta: Delta

    @property
    def unit(self) -> str:
        """Of privacy: ``record``, or the column that names the person."""
        return self.unit_column or "record"

    @property
    def source(self) -> str:
        """The file or the function."""
        return self.path or self.loader or ""

    @field_validator("path")
    @classmethod
    def _or_loader(cls, path: str | None, info: ValidationInfo) -> str | None:
        if "loader" in info.data and (path is None) == (info.data["loader"] is None):
            raise fault("give path or loader, and only one of them")
        return path


class MetricNoise(Table):
    """How each evaluation of a metric is noised: one Gaussian mechanism at sampling rate 1."""

    noise_multiplier: NoiseMultiplier


class Evaluation(Records):
    """Records that are only ever evaluated on, with a budget of their own."""

    metrics: Annotated[Mapping[PlainName, MetricNoise], Field(min_length=1)]


class Dataset(Records):
    """Records that may be trained on, and by which coordinators.

    ``task`` is what the records are for; ``labels`` the public label set as ``read_labels``
    takes it; ``limits`` is by a coordinator's name. Data sets of one ``account`` add up
    their losses there: a unit may have records in several of them.
    """

    task: Annotated[str, NameIn("tasks")] = TEXT_CLASSIFICATION
    text_column: Column = "text"
    label_column: Column = "label"
    labels: Labels
    limits: Mapping[Annotated[str, NameIn("coordinators")], Limits] = Field(
        default={}, alias="coordinators"
    )
    evaluation: Evaluation | None = None
    account: PlainName = ""  # as read, where it is left out: then the data set's name
    _name: str = PrivateAttr("")
    _noises: ClassVar[tuple[str, ...]] = ("discrete-gaussian",)

    @property
    def name(self) -> str:
        """That of its table."""
        return self._name

    def named(self, name: str) -> Self:
        """The same data set under a name."""
        copy = self.model_copy(update={"account": self.account or name})
        copy._name = name
        return copy

    @property
    def evaluation_name(self) -> str:
        """What the ledger calls the records for evaluation."""
        return f"{self.account}:evaluation"

    @property
    def charged(self) -> "dict[str, Dataset | Evaluation]":
        """The parts, by what the ledger calls their records."""
        return dict(zip((self.account, self.evaluation_name), self.parts, strict=False))

    @property
    def parts(self) -> "tuple[Dataset | Evaluation, ...]":
        """The records that train, and those that are only measured on, where there are any."""
        return (self,) if self.evaluation is None else (self, self.evaluation)

    def check(self, plan: Plan) -> None:
        """Raise unless a plan protects what this dataset's budget counts.

        PolicyError for another task or unit or for insecure noise, BudgetError for
        another delta.
        """
        if plan.task.name != self.task:
            raise PolicyError(f"the policy's task is {self.task!r}")
        if plan.unit != self.unit:
            raise PolicyError(f"the policy's unit of privacy is {self.unit!r}")
        if any(phase.noise.kind not in self._noises for phase in plan.phases):
            raise PolicyError("the policy allows cryptographic noise only")
        if plan.delta != self.delta:
            raise BudgetError(f"the policy's budget is at delta {self.delta:g}")

    @field_validator("evaluation")
    @classmethod
    def _known_metrics(cls, evaluation: Evaluation | None, info: ValidationInfo) -> Any:
        """A built-in task's metrics; those of a site's own are known when the guard starts."""
        task = info.data.get("task", "")
        if evaluation is not None and task in TASKS:
            metrics = resolve(task, {}).metrics
            unknown = [name for name in evaluation.metrics if name not in metrics]
            if unknown:
                text = f"this name must be {one_of(metrics).words}"
                raise located(*((("metrics", name), text) for name in unknown))
        return evaluation

    @field_validator("limits")
    @classmethod
    def _within_the_budget(
        cls, limits: Mapping[str, Limits], info: ValidationInfo
    ) -> Mapping[str, Limits]:
        """Each share is at most the data set's epsilon, which is also its default."""
        budget = info.data.get("epsilon")
        if budget is None:
            return limits
        over = [name for name, share in limits.items() if share.epsilon > budget]
        if over:
            text = f"must be at most the dataset's, {budget:g}"
            raise located(*(((name, "epsilon"), text) for name in over))
        return {
            name: share if share.epsilon else share.model_copy(update={"epsilon": budget})
            for name, share in limits.items()
        }
