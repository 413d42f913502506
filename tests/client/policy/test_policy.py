"""A policy is read whole and exactly, or refused with the line and the key at fault."""

import datetime
import math
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from dpbitfit_client.policy.dataset import Dataset, Evaluation, MetricNoise
from dpbitfit_client.policy.limits import Limits
from dpbitfit_client.policy.policy import (
    AllowedModel,
    Coordinator,
    Policy,
    SiteRules,
)
from hypothesis import assume, given
from hypothesis import strategies as st

from dpbitfit.data.sources.formats import READERS
from dpbitfit.engine.clipping import CLIPPINGS
from dpbitfit.engine.groupwise import AdaptiveClipping, GroupwiseClipping
from dpbitfit.engine.noise import DiscreteGaussianNoise
from dpbitfit.errors import BudgetError, InputError, ProtocolError
from dpbitfit.phases import ClassSums, DpZeroPhase, HeadDescent
from dpbitfit.plan import Plan, TaskChoice
from dpbitfit.tasks.models import model_digest, resolve_model
from dpbitfit.tasks.registry import TASKS
from dpbitfit.tasks.text_classification.settings import TextSettings
from tests.conftest import ROOT
from tests.support import users
from tests.support.policies import POLICY, PUBLIC, Key, changed, keys, read, written

from ...support import plans

LETTERS: Key = ("datasets", "letters")
LIMITS: Key = (*LETTERS, "coordinators", "trial-office")
EVALUATION: Key = (*LETTERS, "evaluation")
ACCURACY: Key = (*EVALUATION, "metrics", "accuracy")
EXAMPLE = ROOT / "deploy" / "policy.example.toml"


def value_of(key: Key) -> Any:
    value: Any = POLICY
    for part in key:
        value = value[part]
    return value


def letters(policy: Policy) -> Any:
    return policy.datasets["letters"]


def limits(policy: Policy) -> Any:
    return letters(policy).limits["trial-office"]


def named(key: Key) -> str:
    return ".".join(key)


# What may be left out, and what is then read.
OPTIONAL: dict[Key, Callable[[Policy], bool]] = {
    ("site", "state-directory"): lambda policy: (
        policy.site.state_directory == Path(f"{policy.site.ledger}.state")
    ),
    ("site", "reply-slot-seconds"): lambda policy: policy.site.reply_slot_seconds == 0,
    ("site", "round-seconds"): lambda policy: policy.site.round_seconds == 3600,
    ("site", "device"): lambda policy: policy.site.devices == ("cpu",),
    (*LETTERS, "text-column"): lambda policy: letters(policy).text_column == "text",
    (*LETTERS, "label-column"): lambda policy: letters(policy).label_column == "label",
    (*LETTERS, "unit-column"): lambda policy: letters(policy).unit == "record",
    (*LETTERS, "coordinators"): lambda policy: not letters(policy).limits,
    (*LETTERS, "account"): lambda policy: letters(policy).account == "letters",
    LIMITS: lambda policy: not letters(policy).limits,
    EVALUATION: lambda policy: letters(policy).evaluation is None,
    (*EVALUATION, "unit-column"): lambda policy: letters(policy).evaluation.unit == "record",
    (*LIMITS, "epsilon"): lambda policy: limits(policy).epsilon == 8.0,
    (*LIMITS, "max-directions"): lambda policy: limits(policy).max_directions == 64,
    (*LIMITS, "max-length"): lambda policy: limits(policy).max_length == 128,
    (*LIMITS, "max-bias-distance"): lambda policy: limits(policy).max_bias_distance == 0,
}
# Names that a site chooses: another one is no fault of the name.
CHOSEN = {("coordinators", "trial-office"), ("models", "minilm"), ("tasks", "triage"), LETTERS}
# What may be left out where no limit names it.
NAMED = {ACCURACY, ("tasks",)}
# What may be left out and is given here as it would then be read.
DEFAULT = {
    ("site", "precision"),
    (*LETTERS, "task"),
    *((*LIMITS, name) for name in ("heads", "phases", "clippings")),
}
REQUIRED = [key for key in keys() if key not in {*OPTIONAL, *CHOSEN, *NAMED, *DEFAULT}]
NOT_NUMBERS = [math.nan, math.inf, -math.inf, -1, 0, 10**400]
NOT_COUNTS = [0, -1, 10**12, 10**400]
NOT_PATHS = ["", "letters.csv", "../x.csv", "/srv/letters", "/srv/letters.xls", "/a\0.csv", "org/m"]
NOT_BUDGETS = [*NOT_NUMBERS, 10_000.1, 1e-100]
OUT_OF_RANGE: dict[Key, list[Any]] = {
    ("site", "name"): ["", "a/b", "a:b", "a\nb", "x" * 181],
    ("site", "ledger"): ["", "ledger.sqlite", "mysql://a/b", "postgresql://h:port/d", "/a\0"],
    ("site", "socket"): ["", "guard.sock", "/" + "x" * 107],
    ("site", "group"): ["", "a b", "0"],
    ("site", "state-directory"): ["", "state", "/a\0"],
    ("site", "reply-slot-seconds"): [math.nan, math.inf, -1, 86_401],
    ("site", "round-seconds"): [*NOT_NUMBERS, 604_801],
    ("site", "precision"): ["", "float16", "tf32", "BFLOAT16", 16, True],
    ("site", "device"): [
        "",
        "gpu",
        "CUDA",
        "cuda:",
        "cuda:-1",
        "cuda:01",
        "cuda:0,1",
        "mps",
        "meta",
        [],
        ["cuda:0", "cuda:0"],
        ["cuda:0", "cuda"],
        ["auto", "auto"],
        ["cuda:0", "auto"],
        ["cpu", "cuda:0"],
        ["cuda:0", "cuda:01"],
        ["cuda:0", "mps"],
        ["cuda:0", 1],
        "cuda:0+",
        "cuda:0+cuda:0",
        "cuda+cuda:1",
        "cpu+cuda:0",
        "cuda:0 + cuda:1",
        ["cuda:0+cuda:1", "cuda:1"],
        [["cuda:0"]],
    ],
    ("coordinators", "trial-office", "public-key"): ["", "ab" * 31, "xy" * 32, "ab" * 33],
    ("models", "minilm", "path"): ["", "org/model", "model", "/a\0"],
    ("models", "minilm", "digest"): ["", "cd" * 31, "zz" * 32],
    ("tasks", "triage"): ["", "Triage", "/srv/tasks.py:Triage", "a.b:C.d", "a:b:c", "a b:C", ":C"],
    (*LETTERS, "path"): NOT_PATHS,
    (*LETTERS, "task"): ["", "other", "Triage"],
    (*LETTERS, "text-column"): ["", "x" * 201, "a\nb"],
    (*LETTERS, "label-column"): ["", "x" * 201, "a\nb"],
    (*LETTERS, "labels"): ["", "letters.txt", "one", "one,one", "/srv/labels.csv"],
    (*LETTERS, "unit-column"): ["", "record", "a/b", "x" * 201],
    (*LETTERS, "declared-size"): NOT_COUNTS,
    (*LETTERS, "account"): ["", "a/b", "letters:evaluation", "x" * 181],
    (*LETTERS, "epsilon"): NOT_BUDGETS,
    (*LETTERS, "delta"): [*NOT_NUMBERS, 1, 1.5, 1e-100],
    (*LIMITS, "epsilon"): [*NOT_BUDGETS, 8.001],
    (*LIMITS, "min-noise-multiplier"): [*NOT_NUMBERS, 0.009, 1.1e6],
    (*LIMITS, "max-sampling-rate"): [*NOT_NUMBERS, 1.001, 1e-10],
    (*LIMITS, "max-steps-per-round"): NOT_COUNTS,
    (*LIMITS, "max-rounds"): [*NOT_COUNTS, 999_999_999],
    (*LIMITS, "models"): [[], ["other"], ["minilm", "minilm"], [[]], ["minilm", 3]],
    (*LIMITS, "phases"): [[], ["other"], ["head", "head"]],
    (*LIMITS, "clippings"): [[], ["flat"], ["abadi", "abadi"]],
    (*LIMITS, "heads"): [[], ["other"], ["labels", "labels"], [math.nan]],
    (*LIMITS, "max-directions"): [*NOT_COUNTS, 1025],
    (*LIMITS, "max-length"): NOT_COUNTS,
    (*LIMITS, "max-bias-distance"): [*NOT_NUMBERS, 1e-4, 1e40],
    (*EVALUATION, "path"): [*NOT_PATHS, POLICY["datasets"]["letters"]["path"]],
    (*EVALUATION, "unit-column"): ["", "record", "a/b"],
    (*EVALUATION, "declared-size"): NOT_COUNTS,
    (*EVALUATION, "epsilon"): NOT_BUDGETS,
    (*EVALUATION, "delta"): [*NOT_NUMBERS, 1],
    (*EVALUATION, "metrics"): [{}],
    (*ACCURACY, "noise-multiplier"): [*NOT_NUMBERS, 0.009, 1.1e6],
}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("policy") / "policy.toml"


def refusal(file: Path, values: Any) -> str:
    with pytest.raises(InputError) as caught:
        read(file, values)
    message = str(caught.value)
    for line in message.splitlines():
        assert re.match(rf"{file}:\d+: |{file}: and \d+ more faults", line)
    return message


def test_every_key_is_read(file: Path) -> None:
    policy = read(file)
    assert policy.site.name == "hospital-1"
    assert (policy.site.socket, policy.site.group) == (
        Path("/run/dpbitfit/guard.sock"),
        "dpbitfit-relay",
    )
    assert (policy.site.reply_slot_seconds, policy.site.round_seconds) == (60.0, 1800.0)
    assert policy.models == {"minilm": AllowedModel(path="minilm", digest="cd" * 32)}
    assert policy.tasks == {"triage": "hospital.tasks:Triage"}
    data = letters(policy)
    assert (data.source, data.unit, data.declared_size) == ("/srv/letters.csv", "patient", 4000)
    assert (data.text_column, data.label_column) == ("body", "topic")
    assert (data.epsilon, data.delta) == (8.0, 1e-5)
    heads = ("labels", "trained")
    assert limits(policy) == Limits.model_construct(
        epsilon=6.0,
        min_noise_multiplier=0.8,
        max_sampling_rate=0.2,
        max_steps_per_round=20,
        max_rounds=50,
        models=("minilm",),
        heads=heads,
        phases=("class-sums", "head", "biases"),
        clippings=CLIPPINGS,
        max_directions=32,
        max_length=64,
        max_bias_distance=4.0,
    )
    assert (data.account, data.evaluation_name) == ("patients", "patients:evaluation")
    assert data.evaluation == Evaluation.model_construct(
        path="/srv/held-out.parquet",
        unit_column="patient",
        declared_size=500,
        epsilon=1.0,
        delta=1e-6,
        metrics={"accuracy": MetricNoise.model_construct(noise_multiplier=20.0)},
    )


@pytest.mark.parametrize("key", list(OPTIONAL), ids=named)
def test_what_may_be_left_out_has_its_default(file: Path, key: Key) -> None:
    assert OPTIONAL[key](read(file, changed(key, ...)))
    assert not OPTIONAL[key](read(file))


@pytest.mark.parametrize(
    ("value", "devices"),
    [
        ("cuda", ("cuda",)),
        ("cuda:3", ("cuda:3",)),
        (["cuda:1"], ("cuda:1",)),
        (["cuda:1", "cuda:0", "cuda:10"], ("cuda:1", "cuda:0", "cuda:10")),
        (["cpu", "cpu"], ("cpu", "cpu")),
        ("cuda:0+cuda:1", ("cuda:0+cuda:1",)),
        (["cuda:0+cuda:1", "cuda:2+cuda:3"], ("cuda:0+cuda:1", "cuda:2+cuda:3")),
    ],
)
def test_a_device_is_one_name_or_a_list(file: Path, value: Any, devices: tuple[str, ...]) -> None:
    assert read(file, changed(("site", "device"), value)).site.devices == devices


@pytest.mark.parametrize("key", list(OUT_OF_RANGE), ids=named)
def test_a_value_out_of_range_is_refused_on_its_line(file: Path, key: Key) -> None:
    for value in OUT_OF_RANGE[key]:
        values = changed(key, value)
        assert f"{file}:{written(values)[1][key]}: {named(key)}: " in refusal(file, values)


@pytest.mark.parametrize("key", REQUIRED, ids=named)
def test_a_key_that_is_missing_is_named(file: Path, key: Key) -> None:
    what = (
        "give path or loader" if key[-1:] == ("path",) and key[0] == "datasets" else "missing; it"
    )
    assert f": {named(key)}: {what}" in refusal(file, changed(key, ...))


def test_the_mark_that_some_editors_write_is_read_over(file: Path) -> None:
    marked = b"\xef\xbb\xbf" + written(POLICY)[0].encode()
    assert read(file, marked).site == read(file).site


@pytest.mark.parametrize("key", [key for key in keys() if key not in CHOSEN], ids=named)
def test_a_key_that_is_misspelt_is_named(file: Path, key: Key) -> None:
    other = (*key[:-1], key[-1] + "x")
    values = changed(other, value_of(key), changed(key, ...))
    line = written(values)[1][other]
    message = refusal(file, values)
    assert f"{file}:{line}: {named(other)}: " in message
    assert key in (LIMITS, ACCURACY) or f"do you mean {key[-1]}?" in message


ANYTHING = st.one_of(
    st.booleans(),
    st.text(max_size=20),
    st.integers(),
    st.floats(),
    st.dates(),
    st.just(datetime.datetime(2026, 1, 1)),
    st.lists(st.one_of(st.integers(), st.text(max_size=3), st.booleans()), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@given(st.sampled_from(keys()), ANYTHING)
def test_a_value_of_another_type_is_refused_by_name(file: Path, key: Key, value: Any) -> None:
    right = type(value_of(key))
    assume(type(value) is not right and {type(value), right} != {int, float})
    message = refusal(file, changed(key, value))
    assert f": {named(key)}: must be " in message or key in CHOSEN


@given(st.sampled_from(keys()), ANYTHING)
def test_any_value_anywhere_is_read_or_refused(file: Path, key: Key, value: Any) -> None:
    with suppress(InputError):
        read(file, changed(key, value))


TEXT = written(POLICY)[0].encode()


@given(st.binary(), st.integers(0, len(TEXT)), st.integers(0, 40))
def test_no_bytes_raise_anything_else(file: Path, content: bytes, at: int, cut: int) -> None:
    for text in (content, TEXT[:at] + content + TEXT[at + cut :]):
        with suppress(InputError):
            read(file, text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[site\n", "this is not TOML: .*line 1"),
        (b"[site]\nname = 1\nname = 2\n", "this is not TOML: .*line 3"),
        (b"[site]\n\xff", ":2: this is not UTF-8"),
        (b"a = " + b"[" * 10_000, "nested too deeply"),
        (b"#" * ((1 << 20) + 1), "larger than"),
        (b"a = " + b"9" * 10_000, "this is not TOML"),
    ],
)
def test_what_is_not_toml_is_refused(file: Path, text: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(file, text)


def test_all_faults_come_in_one_message_in_order(file: Path) -> None:
    values = changed(("site", "name"), 3, changed((*LETTERS, "delta"), 2, changed(ACCURACY, {})))
    lines = refusal(file, values).splitlines()
    assert [line.split(": ")[1] for line in lines] == [
        "site.name",
        "datasets.letters.delta",
        "datasets.letters.evaluation.metrics.accuracy.noise-multiplier",
    ]
    assert re.search(r":2: site.name: must be 1 to 180 .*, not 3$", lines[0])


def test_at_most_ten_faults_are_shown(file: Path) -> None:
    values = changed(("site",), {f"unknown-{number}": number for number in range(20)})
    lines = refusal(file, values).splitlines()
    assert len(lines) == 10
    assert lines[-1] == f"{file}: and 15 more faults"


def test_a_plan_has_no_more_steps_than_are_accounted(file: Path) -> None:
    values = changed((*LIMITS, "max-rounds"), 10**5, changed((*LIMITS, "max-steps-per-round"), 10))
    assert read(file, values).datasets["letters"].limits["trial-office"].max_steps == 10**6
    more = changed((*LIMITS, "max-rounds"), 10**5 + 1, values)
    assert f"{named((*LIMITS, 'max-rounds'))}: times max-steps-per-round" in refusal(file, more)


def test_a_number_that_python_will_not_print_is_refused(file: Path) -> None:
    text = written(POLICY)[0].replace('declared-size" = 4000', f'declared-size" = 0x{"f" * 5000}')
    assert "declared-size: must be a whole number from 1 to" in refusal(file, text)


def test_a_file_that_others_may_write_to_is_refused(file: Path) -> None:
    read(file)
    for mode in (0o620, 0o602):
        file.chmod(mode)
        with pytest.raises(InputError, match=r"chmod go-w"):
            Policy.read(file)
    file.chmod(0o444)
    Policy.read(file)


def test_a_file_in_a_folder_where_others_may_write_is_refused(tmp_path: Path) -> None:
    """They could put an older one of the owner's in its place; so they could a link."""
    real, link = tmp_path / "real" / "policy.toml", tmp_path / "linked" / "policy.toml"
    for folder in (real.parent, link.parent):
        folder.mkdir()
    read(real)
    link.symlink_to(real)
    for folder in (real.parent, link.parent):
        Policy.read(link)
        folder.chmod(0o777)
        with pytest.raises(InputError, match=f"{folder}: others may write here"):
            Policy.read(link)
        folder.chmod(0o755)


def test_a_file_that_another_user_owns_is_refused(tmp_path: Path) -> None:
    """Whatever its mode: who owns it can change that."""
    file = tmp_path / "policy.toml"
    read(file)
    users.give(file, users.STRANGER, 0o400)
    with pytest.raises(InputError, match=f"another user owns it: chown root {file}"):
        Policy.read(file)


@pytest.mark.parametrize("name", ["absent.toml", "", "a\0b"])
def test_a_file_that_is_not_there_is_refused(file: Path, name: str) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        Policy.read(file.parent / name)


def test_one_key_or_source_has_one_name(file: Path, tmp_path: Path) -> None:
    twin = changed(("coordinators", "twin", "public-key"), PUBLIC.upper())
    assert "coordinators.twin.public-key: is also that of coordinators.trial-office" in refusal(
        file, twin
    )
    (tmp_path / "link.csv").symlink_to("/srv/letters.csv")
    for path in ("/srv/./letters.csv", str(tmp_path / "link.csv")):
        again = {**value_of(LETTERS), "path": path, "evaluation": ...}
        again = {key: value for key, value in again.items() if value is not ...}
        message = refusal(file, changed(("datasets", "again"), again))
        assert "datasets.again.path: is also datasets.letters.path" in message


def other_dataset(**values: Any) -> dict[str, Any]:
    """The policy with another dataset of the same account, other records and these values."""
    notes = changed(("path",), "/srv/notes.csv", value_of(LETTERS))
    notes = changed(("evaluation", "path"), "/srv/notes-held-out.csv", notes)
    for name, value in values.items():
        notes = changed(tuple(name.replace("_", "-").split("__")), value, notes)
    return changed(("datasets", "notes"), notes)


def test_datasets_of_one_account_have_one_unit_and_one_budget(file: Path) -> None:
    assert read(file, other_dataset()).datasets["notes"].account == "patients"
    for name, value, theirs in (
        ("unit-column", "customer", "'patient'"),
        ("epsilon", 9.0, "8.0"),
        ("delta", 1e-6, "1e-05"),
    ):
        values = other_dataset(**{name: value})
        key = ("datasets", "notes", name)
        line = written(values)[1][key]
        message = f"{file}:{line}: {named(key)}: must be that of datasets.letters, {theirs}"
        assert message in refusal(file, values)
        assert read(file, other_dataset(**{name: value, "account": "others"}))
    without = other_dataset(unit_column=...)
    assert "datasets.notes.unit-column: must be that of" in refusal(file, without)
    measured = changed(("datasets", "notes", "evaluation", "epsilon"), 2.0, other_dataset())
    assert "datasets.notes.evaluation.epsilon: must be that of datasets.letters.evaluation" in (
        refusal(file, measured)
    )


def test_an_account_with_a_datasets_name_is_that_datasets(file: Path) -> None:
    own = changed((*LETTERS, "account"), "notes", other_dataset(account=...))
    assert read(file, own).datasets["notes"].account == "notes"
    crossed = changed((*LETTERS, "account"), "notes", other_dataset(account="others"))
    assert "datasets.letters.account: notes has another account" in refusal(file, crossed)


def test_a_source_is_a_path_or_a_loader(file: Path) -> None:
    loaded = changed(
        (*LETTERS, "path"), ..., changed((*LETTERS, "loader"), "hospital.letters:load")
    )
    assert read(file, loaded).datasets["letters"].source == "hospital.letters:load"
    both = changed((*LETTERS, "loader"), "hospital.letters:load")
    assert "datasets.letters.path: give path or loader" in refusal(file, both)
    for wrong in ("load", "a.b:c.d", "a b:c", "/srv/a.csv", ":load"):
        assert "datasets.letters.loader: " in refusal(file, changed((*LETTERS, "loader"), wrong))
    same = changed((*EVALUATION, "loader"), "hospital.letters:load", loaded)
    same = changed((*EVALUATION, "path"), ..., same)
    assert "datasets.letters.evaluation.loader: is also datasets.letters.loader" in refusal(
        file, same
    )


@pytest.mark.parametrize("ending", [*READERS, ".CSV", ".Xlsx"])
@pytest.mark.parametrize("labels", [".txt", ".TXT", ".json"])
def test_every_file_that_can_be_read_may_be_named(file: Path, ending: str, labels: str) -> None:
    values = changed((*LETTERS, "path"), f"/srv/records{ending}")
    policy = read(file, changed((*LETTERS, "labels"), f"/srv/labels{labels}", values))
    assert letters(policy).source == f"/srv/records{ending}"


def test_limits_name_coordinators_and_models_of_the_policy(file: Path) -> None:
    message = refusal(file, changed((*LETTERS, "coordinators", "stranger"), value_of(LIMITS)))
    assert (
        "datasets.letters.coordinators.stranger: this name must be one of 'trial-office'" in message
    )
    for models in (["other"], ["minilm", "other"]):
        (message,) = refusal(file, changed((*LIMITS, "models"), models)).splitlines()
        assert "models: must be one of 'minilm', not 'other'" in message


@pytest.mark.parametrize("name", ["", "a/b", "letters:evaluation", "x" * 181, "a\u0000b"])
@pytest.mark.parametrize("table", ["coordinators", "models", "datasets"])
def test_names_that_the_ledger_would_refuse_are_refused(file: Path, table: str, name: str) -> None:
    entry = next(iter(POLICY[table].values()))
    assert "this name must be 1 to 180 printable" in refusal(file, changed((table, name), entry))


def test_a_password_is_not_repeated(file: Path) -> None:
    message = refusal(file, changed(("site", "ledger"), "mysql://dp:secret@host/ledger"))
    assert "secret" not in message
    good = changed(("site", "ledger"), "postgresql://dp:secret@host/ledger")
    assert read(file, good).site.ledger == "postgresql://dp:secret@host/ledger"


def test_a_ledger_without_a_folder_of_its_own_needs_a_state_directory(file: Path) -> None:
    there = changed(("site", "ledger"), "postgresql://host/ledger")
    message = refusal(file, changed(("site", "state-directory"), ..., there))
    assert "site.state-directory: missing; it must be an absolute path of a folder" in message


def test_a_table_that_is_dotted_or_inline_is_read_alike(file: Path) -> None:
    text = written(changed(("site",), ...))[0]
    site = ", ".join(f'{key} = "{value}"' for key, value in list(POLICY["site"].items())[:5])
    assert read(file, f"site = {{{site}}}\n{text}").site.name == "hospital-1"
    message = refusal(file, f"site.name = 4\n{text}")
    assert f"{file}:1: site.name: " in message
    assert f"{file}:1: site.ledger: missing" in message


def test_only_a_listed_coordinator_may_do_anything(file: Path) -> None:
    other = "ef" * 32
    policy = read(file, changed(("coordinators", "other", "public-key"), other.upper()))
    assert policy.coordinator(PUBLIC) == "trial-office"
    assert policy.coordinator(other) == "other"
    assert policy.coordinator("00" * 32) is None
    assert policy.limits("letters", PUBLIC).max_steps == 1000
    for dataset, key in (("letters", other), ("letters", "00" * 32), ("absent", PUBLIC)):
        with pytest.raises(ProtocolError):
            policy.limits(dataset, key)


PLAN = plans.plan(
    noise_multiplier=0.8,
    sampling_rate=0.2,
    rounds=50,
    steps_per_round=20,
    unit="patient",
    max_length=64,
)


def check(file: Path, plan: Plan) -> None:
    policy = read(file)
    policy.datasets["letters"].check(plan)
    within(policy, plan)


def within(policy: Policy, plan: Plan) -> None:
    settings = TextSettings.checked(**plan.task.settings)
    policy.limits("letters", PUBLIC).check(plan, settings)


def test_a_plan_at_the_limits_is_allowed(file: Path) -> None:
    check(file, PLAN)
    check(file, plans.plan(PLAN, noise_multiplier=5.0, sampling_rate=0.01, rounds=1))


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ({"noise_multiplier": 0.799}, ProtocolError, "noise_multiplier"),
        ({"noise_multiplier": math.nan}, InputError, "noise-multiplier"),
        ({"sampling_rate": 0.201}, ProtocolError, "sampling_rate"),
        ({"sampling_rate": math.nan}, InputError, "sampling-rate"),
        ({"rounds": 51}, ProtocolError, "rounds"),
        ({"steps_per_round": 21}, ProtocolError, "steps_per_round"),
        ({"model": "other"}, ProtocolError, "model 'other'"),
        ({"max_length": 65}, ProtocolError, "max_length"),
        ({"max_length": 0}, InputError, "max_length"),
        ({"unit": "record"}, ProtocolError, "unit"),
        ({"noise": "fast-insecure"}, ProtocolError, "noise"),
        ({"delta": 1e-6}, BudgetError, "delta"),
    ],
)
def test_a_plan_outside_the_limits_is_refused_by_name(
    file: Path, change: dict[str, Any], error: type[Exception], named: str
) -> None:
    with pytest.raises(error, match=named):
        check(file, plans.plan(PLAN, **change))


def test_a_bias_may_be_as_far_from_its_pretrained_value_as_honest_training_takes_it(
    file: Path,
) -> None:
    """But no learning rate that a coordinator names makes that far, and a run may go on."""
    own = limits(read(file, changed((*LIMITS, "max-bias-distance"), ...)))
    plan = plans.plan(PLAN, rounds=10, steps_per_round=2, learning_rate=0.02)
    assert own.bias_distance(plan, 4000) == plan.largest_distance(4000) == 10 * 20 * 0.02
    for optimizer in ("adam", "sgd"):
        greedy = plans.plan(plan, learning_rate=1e6, clipping_norm=1e6, optimizer=optimizer)
        assert own.bias_distance(greedy, 4000) == 10
    assert own.bias_distance(plans.plan(plan, rounds=1, learning_rate=1e-9), 4000) == 1
    assert limits(read(file)).bias_distance(plan, 4000) == 4  # what the policy says


def test_a_head_that_is_not_listed_is_refused(file: Path) -> None:
    policy = read(file, changed((*LIMITS, "heads"), ["labels"]))
    within(policy, PLAN)
    with pytest.raises(ProtocolError, match="head 'trained'"):
        within(policy, plans.plan(PLAN, head="trained"))


def test_a_setting_that_a_plan_leaves_out_is_limited_as_its_default(file: Path) -> None:
    """Or a plan would pass every limit of its task by not naming the setting."""
    bare = PLAN.changed(task=TaskChoice())
    with pytest.raises(ProtocolError, match="max_length up to 64, not 128"):
        within(read(file), bare)
    long = changed((*LIMITS, "max-length"), 128)
    within(read(file, long), bare)
    with pytest.raises(ProtocolError, match="head 'trained'"):
        within(read(file, changed((*LIMITS, "heads"), ["labels"], long)), bare)


@pytest.mark.parametrize("clipping", [GroupwiseClipping(), AdaptiveClipping()])
def test_a_clipping_that_is_not_listed_is_refused(file: Path, clipping: Any) -> None:
    plan = PLAN.changed(phases=(PLAN.phases[0].changed(clipping=clipping),))
    within(read(file), plan)
    policy = read(file, changed((*LIMITS, "clippings"), ["abadi", "automatic"]))
    within(policy, PLAN)
    with pytest.raises(ProtocolError, match=f"clipping '{clipping.function}'"):
        within(policy, plan)


NOISE = DiscreteGaussianNoise(multiplier=1.0)


@pytest.mark.parametrize("phase", [ClassSums(noise=NOISE), HeadDescent(noise=NOISE, rounds=3)])
def test_a_phase_that_is_not_listed_is_refused(file: Path, phase: ClassSums | HeadDescent) -> None:
    short = plans.plan(PLAN, rounds=2)
    plan = short.changed(phases=(phase, *short.phases))
    within(read(file), plan)  # all units take part: no limit of the sampling rate is for it
    with pytest.raises(ProtocolError, match=f"phase '{phase.kind}'"):
        within(read(file, changed((*LIMITS, "phases"), ["biases"])), plan)
    with pytest.raises(ProtocolError, match="noise_multiplier"):
        within(read(file, changed((*LIMITS, "min-noise-multiplier"), 1.5)), plan)


def test_a_policy_without_a_list_of_phases_allows_none_that_came_later(file: Path) -> None:
    old = read(file, changed((*LIMITS, "phases"), ...))
    assert limits(old).phases == ("class-sums", "head", "biases")
    with pytest.raises(ProtocolError, match="phase 'dp-zero'"):
        within(old, PLAN.changed(phases=(DpZeroPhase(noise=NOISE),)))


def test_dp_zero_has_the_limits_of_other_steps_and_one_of_its_own(file: Path) -> None:
    named = changed((*LIMITS, "phases"), ["dp-zero"], changed((*LIMITS, "max-directions"), 64))
    phase = DpZeroPhase(noise=NOISE)
    policy = read(file, named)
    within(policy, PLAN.changed(phases=(phase,)))
    more = phase.changed(estimator=phase.estimator.changed(directions=65))
    for wrong, says in (
        (more, "directions up to 64, not 65"),
        (phase.changed(sampling_rate=0.3), "sampling_rate"),
        (phase.changed(steps_per_round=21), "steps_per_round"),
        (phase.changed(rounds=51), "rounds"),
        (phase.changed(noise=DiscreteGaussianNoise(multiplier=0.7)), "noise_multiplier"),
    ):
        with pytest.raises(ProtocolError, match=says):
            within(policy, PLAN.changed(phases=(wrong,)))
    with pytest.raises(ProtocolError, match="phase 'biases'"):
        within(policy, PLAN)
    within(
        read(file, changed((*LIMITS, "max-directions"), 65, named)), PLAN.changed(phases=(more,))
    )


def test_a_plan_for_another_task_than_the_records_are_for_is_refused(file: Path) -> None:
    letters(read(file)).check(PLAN)
    own = letters(read(file, changed((*LETTERS, "task"), "triage")))
    with pytest.raises(ProtocolError, match="task is 'triage'"):
        own.check(PLAN)


def test_a_sites_own_task_has_a_name_of_its_own(file: Path) -> None:
    """Or a plan would not mean the same at every site."""
    for name in ("text-classification", "a/b", ""):
        own = changed(("tasks", name), "hospital.tasks:Triage")
        assert "this name must be " in refusal(file, own)
    none = changed(("tasks",), ...)
    assert read(file, none).tasks == {}
    message = refusal(file, changed((*LETTERS, "task"), "triage", none))
    assert f"must be one of {', '.join(map(repr, TASKS))}, not 'triage'" in message


def test_metrics_are_those_of_the_task(file: Path) -> None:
    recall = changed((*EVALUATION, "metrics"), {"recall": {"noise-multiplier": 20.0}})
    message = refusal(file, recall)
    assert "datasets.letters.evaluation.metrics.recall: this name must be one of" in message
    read(file, changed((*LETTERS, "task"), "triage", recall))  # the guard asks the class itself


def test_the_example_names_every_key() -> None:
    text = EXAMPLE.read_text()
    for table in (SiteRules, Coordinator, AllowedModel, Evaluation, MetricNoise, Dataset, Limits):
        for field in table.model_fields.values():
            key = re.escape(str(field.alias))
            assert re.search(rf"^(# )?({key} = |\[.*\b{key}\b.*\])", text, re.MULTILINE), key


def test_the_examples_comments_are_keys_that_are_read(tmp_path: Path) -> None:
    """What an operator takes the comment marks from; no file of it is asked for before."""
    text = EXAMPLE.read_text()
    assert read(tmp_path / "policy.toml", text).datasets["letters"].evaluation is None
    start, optional = text.split("# Without this table")
    optional = re.sub(r"^# (?=\[|[a-z-]+ = )", "", optional, flags=re.MULTILINE)
    evaluation = (
        read(tmp_path / "policy.toml", f"{start}# {optional}").datasets["letters"].evaluation
    )
    assert evaluation is not None
    assert evaluation.declared_size == 500
    assert evaluation.metrics.keys() == {"accuracy"}


def test_the_example_is_read_and_its_model_is_the_packaged_one(tmp_path: Path) -> None:
    policy = read(tmp_path / "policy.toml", EXAMPLE.read_text())
    model = policy.models["minilm"]
    assert model.folder() == Path(resolve_model("minilm"))
    assert model_digest(model.folder()) == model.digest
    with pytest.raises(InputError, match="the policy says 0000"):
        model.model_copy(update={"digest": "0" * 64}).folder()


@pytest.mark.parametrize("module", ["policy.policy", "policy.prose"])
def test_a_policy_needs_neither_torch_nor_flower(module: str) -> None:
    code = (
        f"import sys, dpbitfit_client.{module};"
        "sys.exit(', '.join({'torch', 'transformers', 'flwr'} & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
