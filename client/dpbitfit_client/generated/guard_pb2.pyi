from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Plan(_message.Message):
    __slots__ = ("layout_digest", "model_digest", "noise_multiplier", "sampling_rate", "rounds", "steps_per_round", "delta", "clipping", "clipping_norm", "noise", "optimizer", "learning_rate", "unit", "dataset", "model", "head", "logit_scale", "max_length", "metrics", "evaluations")
    LAYOUT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    MODEL_DIGEST_FIELD_NUMBER: _ClassVar[int]
    NOISE_MULTIPLIER_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_RATE_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    STEPS_PER_ROUND_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    CLIPPING_FIELD_NUMBER: _ClassVar[int]
    CLIPPING_NORM_FIELD_NUMBER: _ClassVar[int]
    NOISE_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    LOGIT_SCALE_FIELD_NUMBER: _ClassVar[int]
    MAX_LENGTH_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    EVALUATIONS_FIELD_NUMBER: _ClassVar[int]
    layout_digest: str
    model_digest: str
    noise_multiplier: float
    sampling_rate: float
    rounds: int
    steps_per_round: int
    delta: float
    clipping: str
    clipping_norm: float
    noise: str
    optimizer: str
    learning_rate: float
    unit: str
    dataset: str
    model: str
    head: str
    logit_scale: float
    max_length: int
    metrics: str
    evaluations: int
    def __init__(self, layout_digest: _Optional[str] = ..., model_digest: _Optional[str] = ..., noise_multiplier: _Optional[float] = ..., sampling_rate: _Optional[float] = ..., rounds: _Optional[int] = ..., steps_per_round: _Optional[int] = ..., delta: _Optional[float] = ..., clipping: _Optional[str] = ..., clipping_norm: _Optional[float] = ..., noise: _Optional[str] = ..., optimizer: _Optional[str] = ..., learning_rate: _Optional[float] = ..., unit: _Optional[str] = ..., dataset: _Optional[str] = ..., model: _Optional[str] = ..., head: _Optional[str] = ..., logit_scale: _Optional[float] = ..., max_length: _Optional[int] = ..., metrics: _Optional[str] = ..., evaluations: _Optional[int] = ...) -> None: ...

class SignedHead(_message.Message):
    __slots__ = ("ledger", "sequence", "head", "spent", "seen_sequence", "seen_head", "key", "signature", "account", "coordinator", "runs", "rebased")
    LEDGER_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    SPENT_FIELD_NUMBER: _ClassVar[int]
    SEEN_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    SEEN_HEAD_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    COORDINATOR_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    REBASED_FIELD_NUMBER: _ClassVar[int]
    ledger: str
    sequence: int
    head: str
    spent: str
    seen_sequence: int
    seen_head: str
    key: str
    signature: str
    account: str
    coordinator: str
    runs: str
    rebased: int
    def __init__(self, ledger: _Optional[str] = ..., sequence: _Optional[int] = ..., head: _Optional[str] = ..., spent: _Optional[str] = ..., seen_sequence: _Optional[int] = ..., seen_head: _Optional[str] = ..., key: _Optional[str] = ..., signature: _Optional[str] = ..., account: _Optional[str] = ..., coordinator: _Optional[str] = ..., runs: _Optional[str] = ..., rebased: _Optional[int] = ...) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ("plan", "run", "coordinator", "signature", "position")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    COORDINATOR_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    plan: Plan
    run: str
    coordinator: str
    signature: str
    position: SignedHead
    def __init__(self, plan: _Optional[_Union[Plan, _Mapping]] = ..., run: _Optional[str] = ..., coordinator: _Optional[str] = ..., signature: _Optional[str] = ..., position: _Optional[_Union[SignedHead, _Mapping]] = ...) -> None: ...

class Statements(_message.Message):
    __slots__ = ("site", "dataset", "unit", "declared_size", "layout_digest", "model_digest", "parameters", "version")
    SITE_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    DECLARED_SIZE_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    MODEL_DIGEST_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    site: str
    dataset: str
    unit: str
    declared_size: int
    layout_digest: str
    model_digest: str
    parameters: int
    version: str
    def __init__(self, site: _Optional[str] = ..., dataset: _Optional[str] = ..., unit: _Optional[str] = ..., declared_size: _Optional[int] = ..., layout_digest: _Optional[str] = ..., model_digest: _Optional[str] = ..., parameters: _Optional[int] = ..., version: _Optional[str] = ...) -> None: ...

class Metric(_message.Message):
    __slots__ = ("name", "noise_multiplier")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NOISE_MULTIPLIER_FIELD_NUMBER: _ClassVar[int]
    name: str
    noise_multiplier: float
    def __init__(self, name: _Optional[str] = ..., noise_multiplier: _Optional[float] = ...) -> None: ...

class EvaluationOffer(_message.Message):
    __slots__ = ("dataset", "unit", "declared_size", "delta", "epsilon", "metrics")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    DECLARED_SIZE_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    EPSILON_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    unit: str
    declared_size: int
    delta: float
    epsilon: float
    metrics: _containers.RepeatedCompositeFieldContainer[Metric]
    def __init__(self, dataset: _Optional[str] = ..., unit: _Optional[str] = ..., declared_size: _Optional[int] = ..., delta: _Optional[float] = ..., epsilon: _Optional[float] = ..., metrics: _Optional[_Iterable[_Union[Metric, _Mapping]]] = ...) -> None: ...

class DescribeReply(_message.Message):
    __slots__ = ("statements", "labels", "rounds_left", "position", "evaluation", "signature")
    STATEMENTS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_LEFT_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    statements: Statements
    labels: _containers.RepeatedScalarFieldContainer[str]
    rounds_left: int
    position: SignedHead
    evaluation: EvaluationOffer
    signature: str
    def __init__(self, statements: _Optional[_Union[Statements, _Mapping]] = ..., labels: _Optional[_Iterable[str]] = ..., rounds_left: _Optional[int] = ..., position: _Optional[_Union[SignedHead, _Mapping]] = ..., evaluation: _Optional[_Union[EvaluationOffer, _Mapping]] = ..., signature: _Optional[str] = ...) -> None: ...

class RoundRequest(_message.Message):
    __slots__ = ("plan", "run", "round", "key", "biases", "position", "signature")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    BIASES_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    plan: Plan
    run: str
    round: int
    key: str
    biases: bytes
    position: SignedHead
    signature: str
    def __init__(self, plan: _Optional[_Union[Plan, _Mapping]] = ..., run: _Optional[str] = ..., round: _Optional[int] = ..., key: _Optional[str] = ..., biases: _Optional[bytes] = ..., position: _Optional[_Union[SignedHead, _Mapping]] = ..., signature: _Optional[str] = ...) -> None: ...

class TrainReply(_message.Message):
    __slots__ = ("statements", "plan_digest", "round", "key", "update", "position", "signature")
    STATEMENTS_FIELD_NUMBER: _ClassVar[int]
    PLAN_DIGEST_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    statements: Statements
    plan_digest: str
    round: int
    key: str
    update: bytes
    position: SignedHead
    signature: str
    def __init__(self, statements: _Optional[_Union[Statements, _Mapping]] = ..., plan_digest: _Optional[str] = ..., round: _Optional[int] = ..., key: _Optional[str] = ..., update: _Optional[bytes] = ..., position: _Optional[_Union[SignedHead, _Mapping]] = ..., signature: _Optional[str] = ...) -> None: ...

class EvaluateReply(_message.Message):
    __slots__ = ("statements", "plan_digest", "round", "key", "metrics", "position", "signature")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    STATEMENTS_FIELD_NUMBER: _ClassVar[int]
    PLAN_DIGEST_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    statements: Statements
    plan_digest: str
    round: int
    key: str
    metrics: _containers.ScalarMap[str, float]
    position: SignedHead
    signature: str
    def __init__(self, statements: _Optional[_Union[Statements, _Mapping]] = ..., plan_digest: _Optional[str] = ..., round: _Optional[int] = ..., key: _Optional[str] = ..., metrics: _Optional[_Mapping[str, float]] = ..., position: _Optional[_Union[SignedHead, _Mapping]] = ..., signature: _Optional[str] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("site", "version", "datasets", "busy")
    SITE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DATASETS_FIELD_NUMBER: _ClassVar[int]
    BUSY_FIELD_NUMBER: _ClassVar[int]
    site: str
    version: str
    datasets: _containers.RepeatedScalarFieldContainer[str]
    busy: bool
    def __init__(self, site: _Optional[str] = ..., version: _Optional[str] = ..., datasets: _Optional[_Iterable[str]] = ..., busy: _Optional[bool] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("code", "key", "untouched", "position")
    CODE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    UNTOUCHED_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    code: str
    key: str
    untouched: str
    position: SignedHead
    def __init__(self, code: _Optional[str] = ..., key: _Optional[str] = ..., untouched: _Optional[str] = ..., position: _Optional[_Union[SignedHead, _Mapping]] = ...) -> None: ...
