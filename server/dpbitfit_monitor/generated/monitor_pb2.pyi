import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STATE_UNSPECIFIED: _ClassVar[State]
    STATE_OK: _ClassVar[State]
    STATE_SILENT: _ClassVar[State]
    STATE_NEAR: _ClassVar[State]
    STATE_SPENT: _ClassVar[State]
    STATE_ORPHANED: _ClassVar[State]
    STATE_DRIFTED: _ClassVar[State]
    STATE_UNREADABLE: _ClassVar[State]
STATE_UNSPECIFIED: State
STATE_OK: State
STATE_SILENT: State
STATE_NEAR: State
STATE_SPENT: State
STATE_ORPHANED: State
STATE_DRIFTED: State
STATE_UNREADABLE: State

class AccountName(_message.Message):
    __slots__ = ("site", "dataset", "unit")
    SITE_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    site: str
    dataset: str
    unit: str
    def __init__(self, site: _Optional[str] = ..., dataset: _Optional[str] = ..., unit: _Optional[str] = ...) -> None: ...

class EpsilonBound(_message.Message):
    __slots__ = ("epsilon", "delta", "accountant", "version", "lower", "exact")
    EPSILON_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    ACCOUNTANT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LOWER_FIELD_NUMBER: _ClassVar[int]
    EXACT_FIELD_NUMBER: _ClassVar[int]
    epsilon: float
    delta: float
    accountant: str
    version: str
    lower: float
    exact: bool
    def __init__(self, epsilon: _Optional[float] = ..., delta: _Optional[float] = ..., accountant: _Optional[str] = ..., version: _Optional[str] = ..., lower: _Optional[float] = ..., exact: _Optional[bool] = ...) -> None: ...

class Account(_message.Message):
    __slots__ = ("name", "state", "budget", "delta", "guaranteed", "accrued", "left", "run", "rounds_left", "last_seen", "asked_since", "ends", "refusals", "open_rounds", "drift", "events", "chain_head", "sentence", "problem")
    class EndsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class RefusalsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    GUARANTEED_FIELD_NUMBER: _ClassVar[int]
    ACCRUED_FIELD_NUMBER: _ClassVar[int]
    LEFT_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_LEFT_FIELD_NUMBER: _ClassVar[int]
    LAST_SEEN_FIELD_NUMBER: _ClassVar[int]
    ASKED_SINCE_FIELD_NUMBER: _ClassVar[int]
    ENDS_FIELD_NUMBER: _ClassVar[int]
    REFUSALS_FIELD_NUMBER: _ClassVar[int]
    OPEN_ROUNDS_FIELD_NUMBER: _ClassVar[int]
    DRIFT_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    CHAIN_HEAD_FIELD_NUMBER: _ClassVar[int]
    SENTENCE_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    name: AccountName
    state: State
    budget: float
    delta: float
    guaranteed: EpsilonBound
    accrued: EpsilonBound
    left: float
    run: str
    rounds_left: int
    last_seen: _timestamp_pb2.Timestamp
    asked_since: _timestamp_pb2.Timestamp
    ends: _containers.ScalarMap[str, int]
    refusals: _containers.ScalarMap[str, int]
    open_rounds: int
    drift: str
    events: int
    chain_head: str
    sentence: str
    problem: str
    def __init__(self, name: _Optional[_Union[AccountName, _Mapping]] = ..., state: _Optional[_Union[State, str]] = ..., budget: _Optional[float] = ..., delta: _Optional[float] = ..., guaranteed: _Optional[_Union[EpsilonBound, _Mapping]] = ..., accrued: _Optional[_Union[EpsilonBound, _Mapping]] = ..., left: _Optional[float] = ..., run: _Optional[str] = ..., rounds_left: _Optional[int] = ..., last_seen: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., asked_since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., ends: _Optional[_Mapping[str, int]] = ..., refusals: _Optional[_Mapping[str, int]] = ..., open_rounds: _Optional[int] = ..., drift: _Optional[str] = ..., events: _Optional[int] = ..., chain_head: _Optional[str] = ..., sentence: _Optional[str] = ..., problem: _Optional[str] = ...) -> None: ...

class ListAccountsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListAccountsResponse(_message.Message):
    __slots__ = ("accounts", "next_page_token", "at")
    ACCOUNTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    accounts: _containers.RepeatedCompositeFieldContainer[Account]
    next_page_token: str
    at: _timestamp_pb2.Timestamp
    def __init__(self, accounts: _Optional[_Iterable[_Union[Account, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class GetAccountRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: AccountName
    def __init__(self, name: _Optional[_Union[AccountName, _Mapping]] = ...) -> None: ...

class GetAccountResponse(_message.Message):
    __slots__ = ("account", "series", "curve", "runs")
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    SERIES_FIELD_NUMBER: _ClassVar[int]
    CURVE_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    account: Account
    series: _containers.RepeatedCompositeFieldContainer[Point]
    curve: _containers.RepeatedCompositeFieldContainer[EpsilonBound]
    runs: _containers.RepeatedCompositeFieldContainer[Run]
    def __init__(self, account: _Optional[_Union[Account, _Mapping]] = ..., series: _Optional[_Iterable[_Union[Point, _Mapping]]] = ..., curve: _Optional[_Iterable[_Union[EpsilonBound, _Mapping]]] = ..., runs: _Optional[_Iterable[_Union[Run, _Mapping]]] = ...) -> None: ...

class Point(_message.Message):
    __slots__ = ("rounds", "at", "accrued")
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    ACCRUED_FIELD_NUMBER: _ClassVar[int]
    rounds: int
    at: _timestamp_pb2.Timestamp
    accrued: EpsilonBound
    def __init__(self, rounds: _Optional[int] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., accrued: _Optional[_Union[EpsilonBound, _Mapping]] = ...) -> None: ...

class Steps(_message.Message):
    __slots__ = ("noise_multiplier", "sampling_rate", "steps")
    NOISE_MULTIPLIER_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_RATE_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    noise_multiplier: float
    sampling_rate: float
    steps: int
    def __init__(self, noise_multiplier: _Optional[float] = ..., sampling_rate: _Optional[float] = ..., steps: _Optional[int] = ...) -> None: ...

class Run(_message.Message):
    __slots__ = ("run", "plan", "coordinator", "adaptive", "allotted", "spent", "left", "rounds_left")
    RUN_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    COORDINATOR_FIELD_NUMBER: _ClassVar[int]
    ADAPTIVE_FIELD_NUMBER: _ClassVar[int]
    ALLOTTED_FIELD_NUMBER: _ClassVar[int]
    SPENT_FIELD_NUMBER: _ClassVar[int]
    LEFT_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_LEFT_FIELD_NUMBER: _ClassVar[int]
    run: str
    plan: str
    coordinator: str
    adaptive: bool
    allotted: _containers.RepeatedCompositeFieldContainer[Steps]
    spent: _containers.RepeatedCompositeFieldContainer[Steps]
    left: _containers.RepeatedCompositeFieldContainer[Steps]
    rounds_left: int
    def __init__(self, run: _Optional[str] = ..., plan: _Optional[str] = ..., coordinator: _Optional[str] = ..., adaptive: _Optional[bool] = ..., allotted: _Optional[_Iterable[_Union[Steps, _Mapping]]] = ..., spent: _Optional[_Iterable[_Union[Steps, _Mapping]]] = ..., left: _Optional[_Iterable[_Union[Steps, _Mapping]]] = ..., rounds_left: _Optional[int] = ...) -> None: ...

class ListEventsRequest(_message.Message):
    __slots__ = ("name", "page_size", "page_token")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    name: AccountName
    page_size: int
    page_token: str
    def __init__(self, name: _Optional[_Union[AccountName, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListEventsResponse(_message.Message):
    __slots__ = ("events", "next_page_token")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[Event]
    next_page_token: str
    def __init__(self, events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("sequence", "kind", "body", "hash")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    kind: str
    body: str
    hash: str
    def __init__(self, sequence: _Optional[int] = ..., kind: _Optional[str] = ..., body: _Optional[str] = ..., hash: _Optional[str] = ...) -> None: ...

class WatchRoundsRequest(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: str
    def __init__(self, run: _Optional[str] = ...) -> None: ...

class WatchRoundsResponse(_message.Message):
    __slots__ = ("folder", "run", "state", "round", "rounds", "metrics", "guaranteed", "accrued", "bytes_up", "bytes_down", "replies", "refused", "seconds", "missing", "phase")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class MissingEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    FOLDER_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    GUARANTEED_FIELD_NUMBER: _ClassVar[int]
    ACCRUED_FIELD_NUMBER: _ClassVar[int]
    BYTES_UP_FIELD_NUMBER: _ClassVar[int]
    BYTES_DOWN_FIELD_NUMBER: _ClassVar[int]
    REPLIES_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    folder: str
    run: str
    state: str
    round: int
    rounds: int
    metrics: _containers.ScalarMap[str, float]
    guaranteed: float
    accrued: float
    bytes_up: int
    bytes_down: int
    replies: int
    refused: int
    seconds: float
    missing: _containers.ScalarMap[str, str]
    phase: str
    def __init__(self, folder: _Optional[str] = ..., run: _Optional[str] = ..., state: _Optional[str] = ..., round: _Optional[int] = ..., rounds: _Optional[int] = ..., metrics: _Optional[_Mapping[str, float]] = ..., guaranteed: _Optional[float] = ..., accrued: _Optional[float] = ..., bytes_up: _Optional[int] = ..., bytes_down: _Optional[int] = ..., replies: _Optional[int] = ..., refused: _Optional[int] = ..., seconds: _Optional[float] = ..., missing: _Optional[_Mapping[str, str]] = ..., phase: _Optional[str] = ...) -> None: ...

class ForecastPlanRequest(_message.Message):
    __slots__ = ("name", "sampling_rate", "steps", "noise_multiplier")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_RATE_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    NOISE_MULTIPLIER_FIELD_NUMBER: _ClassVar[int]
    name: AccountName
    sampling_rate: float
    steps: int
    noise_multiplier: float
    def __init__(self, name: _Optional[_Union[AccountName, _Mapping]] = ..., sampling_rate: _Optional[float] = ..., steps: _Optional[int] = ..., noise_multiplier: _Optional[float] = ...) -> None: ...

class ForecastPlanResponse(_message.Message):
    __slots__ = ("fits", "fitting_noise_multiplier", "approved")
    FITS_FIELD_NUMBER: _ClassVar[int]
    FITTING_NOISE_MULTIPLIER_FIELD_NUMBER: _ClassVar[int]
    APPROVED_FIELD_NUMBER: _ClassVar[int]
    fits: bool
    fitting_noise_multiplier: float
    approved: EpsilonBound
    def __init__(self, fits: _Optional[bool] = ..., fitting_noise_multiplier: _Optional[float] = ..., approved: _Optional[_Union[EpsilonBound, _Mapping]] = ...) -> None: ...
