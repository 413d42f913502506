"""A federation as in the field: what a run reaches, what it costs, and what leaves the sites.

The run over a real SuperLink and SuperNodes is held against runs of the same
plan in this process, where Flower's transport has no part.
"""

import csv
import functools
import grp
import os
import re
import secrets
import signal
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from dp_accounting import dp_event
from dp_accounting.pld import PLDAccountant
from dpbitfit_client import guard_client
from dpbitfit_client.app import app as client_app
from dpbitfit_server import central_evaluation
from dpbitfit_server.app import run as run_server
from flwr.app import Context, RecordDict

from dpbitfit.data.corpus import write_corpus
from dpbitfit.ledger import Ledger
from dpbitfit.ledger.fold import Allotment
from dpbitfit.settings import RunSettings
from dpbitfit.tasks.attach import attach
from dpbitfit.tasks.models import model_digest, resolve_model

from ..support import warm
from ..support.federation import Federation, Guard, federation, living_in
from ..support.grids import LocalGrid
from ..support.policies import written
from ..support.shallow import narrow_minilm

SITES = ("hospital-1", "hospital-2")
RECORDS, TEST_RECORDS = 60, 100
STEPS, ROUNDS = 4, 3
BUDGET = 200.0  # so little noise that what was learned stands out from it
PLAN = {
    **{"rounds": ROUNDS, "steps-per-round": STEPS, "sampling-rate": 0.5, "noise-multiplier": 0.6},
    **{"max-length": 24, "declared-size": RECORDS, "dataset": "letters", "sites": 2},
    **{"budget": BUDGET, "phases": "biases", "head": "labels"},
}
PHASES = ("class-sums", "head", "biases")
# Which heads each data set allows: a guard checks a model, when it starts, with the first.
HEADS = {"letters": ["labels"], "phases": ["trained"]}
# Three simulated runs with noise 0.4 had a standard deviation of 0.015; five of those.
SPREAD = 0.075


class Field:
    """A federation with both sites, and the data that went into it.

    Each data set has its ``models``; a run is of the letters, unless it is told another.
    """

    def __init__(self, running: Federation, project_config: dict[str, Any], **models: str) -> None:
        self.running = running
        self.coordinator = Ledger(str(running.home / "coordinator.sqlite"), create=True)
        folder = running.home / "sites"
        folder.mkdir()
        self.mark = secrets.token_hex(8)
        write_records(folder / "messages.csv", folder / "test.csv", self.mark)
        self.config = {
            **project_config,
            **PLAN,
            "model": models["letters"],
            "data": str(folder / "messages.csv"),
            "site-column": "site",
            "test-data": str(folder / "test.csv"),
            "labels": str(folder / "corpus.labels.txt"),
        }
        self.ledgers: dict[str, Ledger] = {}
        for name in SITES:
            policy = write_policy(folder, name, self.coordinator.id, models)
            Ledger(str(folder / f"{name}.sqlite"), create=True).database.close()
            running.add_site(name, policy, folder / f"{name}.sock")
            self.ledgers[name] = Ledger(str(folder / f"{name}.sqlite"), readonly=True)
        self.seen = set[str]()

    def run(self, name: str, **changes: Any) -> Iterator[Any]:
        """A run by ``dpbitfit run``, watched: its lines of progress, then its report."""
        yield from self.running.run({**self.config, **self.here(name), **changes}, self.watch)

    def here(self, name: str) -> dict[str, str]:
        """Where a run keeps its results, and the coordinator its ledger."""
        return {"out": str(self.running.home / name), "ledger": str(self.coordinator.database)}

    def watch(self) -> None:
        """What holds at any instant of a run."""
        self.check_server_is_ahead()
        self.seen |= self.leaks()

    def check_server_is_ahead(self) -> None:
        """The coordinator's record is never behind a site's."""
        for name in SITES:
            mine = self.held(self.ledgers[name], name)  # first: meanwhile the other may only grow
            theirs = self.held(self.coordinator, name)
            for place, held in mine.items():
                assert held.spent <= theirs[place].spent

    def held(self, ledger: Ledger, site: str) -> dict[Any, Allotment]:
        """What a ledger holds for a site, by run and mechanism."""
        accounts = [one for one in ledger.accounts() if one.name.site == site]
        return dict(ledger.allotments([accounts[0].id])[accounts[0].id]) if accounts else {}

    def leaks(self) -> set[str]:
        """Which of the things looked for stand in what is not the sites' alone."""
        home = self.running.home
        result = set()
        # ``os.walk`` and not ``rglob``: Flower's temporary folders go while one looks.
        logs = [Path(folder) for folder, *_ in os.walk(home) if folder.endswith("/logs")]
        logs = [path for folder in logs for path in folder.glob("*.log")]
        for path in (*home.glob("state.db*"), *logs, *home.glob("*-run/*.*")):
            with suppress(FileNotFoundError, IsADirectoryError):
                content = path.read_bytes()
                result |= {
                    word for word in (self.mark, "layout_digest") if word.encode() in content
                }
        return result


def write_records(messages: Path, test: Path, mark: str) -> None:
    """Records of both sites in one file, each with a mark in its text, and a public test file."""
    corpus = messages.with_name("corpus.csv")
    write_corpus(corpus, records=len(SITES) * RECORDS + TEST_RECORDS, seed=5)
    with corpus.open() as file:
        rows = [(row["text"], row["label"]) for row in csv.DictReader(file)]
    parts = [rows[i * RECORDS :][:RECORDS] for i in range(len(SITES))]
    marked = [
        [(f"{text} ({mark})", label, site) for text, label in part]
        for site, part in zip(SITES, parts, strict=True)
    ]
    write_table(messages, "text label site", [row for part in marked for row in part])
    for site, part in zip(SITES, marked, strict=True):
        for name in HEADS:
            write_table(messages.with_name(f"{site}-{name}.csv"), "text label site", part)
    write_table(test, "text label", rows[-TEST_RECORDS:])


def write_table(path: Path, columns: str, rows: list[Any]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns.split(), *rows])


def write_policy(folder: Path, site: str, coordinator: str, models: Mapping[str, str]) -> Path:
    limits = {
        **{"min-noise-multiplier": 0.6, "max-sampling-rate": 0.5, "max-steps-per-round": 100},
        **{"max-rounds": 10, "max-length": 24},
    }
    dataset = {
        **{"labels": str(folder / "corpus.labels.txt"), "declared-size": RECORDS},
        **{"epsilon": BUDGET, "delta": 1e-5},
    }
    values = {
        "site": {
            **{"name": site, "ledger": str(folder / f"{site}.sqlite")},
            **{"socket": str(folder / f"{site}.sock"), "group": grp.getgrgid(os.getgid()).gr_name},
        },
        "coordinators": {"office": {"public-key": coordinator}},
        "models": {
            Path(model).name: {"path": model, "digest": model_digest(Path(resolve_model(model)))}
            for model in models.values()
        },
        "datasets": {
            name: {
                **{"path": str(folder / f"{site}-{name}.csv"), **dataset},
                "coordinators": {
                    "office": {**limits, "models": [Path(model).name], "heads": HEADS[name]}
                },
            }
            for name, model in models.items()
        },
    }
    policy = folder / f"{site}.toml"
    policy.write_text(written(values)[0])
    policy.chmod(0o600)
    return policy


def simulated(config: dict[str, Any], out: Path) -> dict[str, Any]:
    """The report of a run of the plan in this process."""
    config = {**config, "out": str(out)}

    def node(index: int) -> Any:
        place: dict[str, Any] = {"node_config": {"partition-id": index}, "run_config": config}
        context = Context(run_id=1, node_id=index + 10, state=RecordDict(), **place)
        return lambda message: client_app(message, context).content

    try:
        return run_server(LocalGrid({10 + i: node(i) for i in range(2)}), RunSettings.read(config))
    finally:
        guard_client._guards.clear()  # each holds a model


@pytest.fixture(scope="module")
def field(project_config: dict[str, Any]) -> Iterator[Field]:
    with federation() as running:
        yield Field(running, project_config, letters="minilm", phases=narrow_minilm("narrow"))
        # Every process of a guard ends when it is asked to, and removes its socket.
        assert [guard.stop() for guard in running.guards.values()] == [0, 0]
        assert not any(guard.socket.exists() for guard in running.guards.values())
    assert living_in(running.home) == []
    assert not running.home.exists()


@pytest.fixture(scope="module")
def report(field: Field) -> dict[str, Any]:
    *lines, report = field.run("first-run")
    assert [line["replies"] for line in lines] == [0, *[len(SITES)] * ROUNDS]
    # What a SuperNode's processes import has been watched: those of the other runs start warm.
    warm.program(field.running.programs / "flwr-clientapp", warm.CLIENT_APP)
    return dict(report)


@pytest.fixture(scope="module")
def simulations(field: Field, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(central_evaluation, "attach", functools.cache(attach))  # once for all three
        return [simulated(field.config, tmp_path_factory.mktemp("out")) for _ in range(3)]


def test_it_is_the_plan_of_a_simulation_and_costs_the_same(
    report: dict[str, Any], simulations: list[dict[str, Any]]
) -> None:
    figures = ("name", "guaranteed", "plan_epsilon", "delta", "budget", "steps", "declared_size")
    one = simulations[0]
    assert report["plan"] == one["plan"]
    assert [[site[key] for key in figures] for site in report["sites"]] == [
        [site[key] for key in figures] for site in one["sites"]
    ]
    accountant = PLDAccountant()
    step = dp_event.PoissonSampledDpEvent(0.5, dp_event.GaussianDpEvent(0.6))
    accountant.compose(step, ROUNDS * STEPS)
    for site in report["sites"]:
        assert site["guaranteed"] == pytest.approx(accountant.get_epsilon(1e-5), abs=0.05)


def test_it_learns_what_a_simulation_learns(
    report: dict[str, Any], simulations: list[dict[str, Any]]
) -> None:
    mean = statistics.mean(one["final"]["metrics"]["accuracy"] for one in simulations)
    assert report["final"]["metrics"]["accuracy"] == pytest.approx(mean, abs=SPREAD)
    assert report["rounds"][-1]["metrics"]["loss"] < report["rounds"][0]["metrics"]["loss"]


def test_both_ledgers_say_the_same(report: dict[str, Any], field: Field) -> None:
    for name in SITES:
        mine = field.held(field.ledgers[name], name)
        assert mine == field.held(field.coordinator, name)
        (held,) = mine.values()
        assert (held.reserved, held.committed) == (0, ROUNDS * STEPS)
    for ledger in (field.coordinator, *field.ledgers.values()):
        for account in ledger.accounts():
            ledger.verify(account)


@pytest.mark.usefixtures("report")
def test_a_run_prints_its_sites_its_rounds_and_where_the_model_is(field: Field) -> None:
    printed = field.running.told.read_text().splitlines()
    assert printed[0].startswith("run ")
    takes_part = f"takes part, with a declared size of {RECORDS}"
    assert {f"{name} {takes_part}" for name in SITES} <= set(printed)
    rounds = [line for line in printed if line.startswith("round ")]
    assert [line.split()[1] for line in rounds] == [f"{n}/{ROUNDS}" for n in range(ROUNDS + 1)]
    assert all("  accuracy 0." in line for line in rounds)
    assert ["  epsilon: guaranteed " in line for line in rounds] == [False, *[True] * ROUNDS]
    model = field.running.home / "first-run" / "model"
    assert printed[-1].startswith(f"the model is in {model}, ")
    assert model.is_dir()


@pytest.mark.usefixtures("report")
def test_no_text_of_a_record_is_in_a_message_a_log_or_a_result(field: Field) -> None:
    # That the plan was found there shows that messages do lie where they were looked for.
    assert field.seen == {"layout_digest"}


@pytest.mark.usefixtures("report")
def test_flowers_processes_at_a_site_need_no_torch(field: Field) -> None:
    words = field.running.watched.read_text().splitlines()
    assert words.count("starts flwr-clientapp") == len(SITES) * (1 + ROUNDS)
    assert not [line for line in words if line.startswith("imports-")]


@pytest.mark.usefixtures("report")
def test_a_site_whose_guard_is_lost_misses_a_round_and_comes_back(field: Field) -> None:
    """Killed in the middle of a round; then another's socket is gone for a round."""
    first, second = (field.running.guards[name] for name in SITES)
    before = {name: set(field.held(field.coordinator, name)) for name in SITES}
    hidden = second.socket.with_name("hidden")
    replies = []
    steps = 20  # long enough to be caught at it
    run = field.run("second-run", **{"rounds": 4, "steps-per-round": steps, "sampling-rate": 0.1})
    for line in run:
        if "round" not in line:
            break
        replies.append(line["replies"])
        if line["round"] == 1:
            # The round waits for the second until the first is back. It is stopped at work:
            # gRPC gives up on a stopped process to which it has no connection yet.
            signal_at_work(
                (first, field.ledgers[SITES[0]], signal.SIGKILL),
                (second, field.ledgers[SITES[1]], signal.SIGSTOP),
            )
            field.check_server_is_ahead()
            first.start()
            second.send(signal.SIGCONT)
        elif line["round"] == 2:
            second.socket.rename(hidden)
        elif line["round"] == 3:
            hidden.rename(second.socket)
    assert replies == [0, 2, 1, 1, 2]
    printed = field.running.told.read_text().splitlines()
    for number, name in enumerate(SITES, 2):
        assert f"round {number}: nothing from {name}: its guard does not answer" in printed
        assert f"round {number + 1}: {name} replies again" in printed
    assert [site["refused"] for site in line["sites"]] == ["", ""]
    assert [site["rounds"] for site in line["sites"]] == [3, 3]
    outcomes = {}
    for name in SITES:
        output = (field.running.logs / f"{name}.log").read_text()
        assert output.count("refused: guard-unavailable") == output.count("refused: ") == 1
        assert "Traceback" not in output
        mine = field.held(field.ledgers[name], name)
        theirs = field.held(field.coordinator, name)
        (place,) = set(theirs) - before[name]  # the coordinator charges what it cannot know
        assert (theirs[place].reserved, theirs[place].committed) == (0, 4 * steps)
        rounds = field.ledgers[name].reservations(state="committed")
        outcomes[name] = [one.outcome for one in rounds]
        assert mine[place].committed == steps * (len(outcomes[name]) - ROUNDS)
    # The round of the killed guard is spent there too; the unseen question cost nothing.
    assert outcomes[SITES[0]] == [*["reply"] * (ROUNDS + 1), "crashed", *["reply"] * 2]
    assert outcomes[SITES[1]] == ["reply"] * (ROUNDS + 3)
    assert field.mark not in field.seen


@pytest.mark.usefixtures("report")
@pytest.mark.parametrize(
    ("changes", "status", "cause"),
    [
        ({"budget": 0.1}, 3, "the plan costs epsilon .*, above the budget of 0.1"),
        ({"sampling-rate": 0.6}, 2, "no site takes part: hospital-1: its policy .*; hospital-2: "),
    ],
    ids=["budget", "policy"],
)
def test_a_run_that_fails_ends_with_its_cause(
    changes: dict[str, float], status: int, cause: str, field: Field
) -> None:
    narrow = {"model": narrow_minilm("narrow"), "dataset": "phases", "head": "trained"}
    config = {**field.config, **field.here("failing-run"), **narrow, **changes}
    ended, printed = field.running.fail(config)
    assert ended == status
    assert re.match(f"error: {cause}", printed[-1])
    assert not any("Traceback" in line for line in printed)


def test_a_plan_of_phases_costs_what_its_simulation_does(field: Field, tmp_path: Path) -> None:
    changes = {
        **{"phases": ",".join(PHASES), "head": "trained", "most-rounds": 6, "rounds": 2},
        **{"steps-per-round": 2, "noise-multiplier": 0.0, "target-epsilon": 8.0},
        **{"model": narrow_minilm("narrow"), "dataset": "phases"},
    }
    *lines, report = field.run("phased-run", **changes)
    assert [line["phase"] for line in lines] == ["", PHASES[0], *["head"] * 3, *["biases"] * 2]
    assert [line["replies"] for line in lines] == [0, *[len(SITES)] * 6]
    simulation = simulated({**field.config, **changes}, tmp_path)
    assert report["plan"] == simulation["plan"]
    accountant = PLDAccountant()
    for phase in report["plan"]["phases"]:
        gaussian = dp_event.GaussianDpEvent(phase["noise"]["multiplier"])
        step = dp_event.PoissonSampledDpEvent(phase["sampling_rate"], gaussian)
        accountant.compose(step, phase["rounds"] * phase["steps_per_round"])
    for site, simulated_site in zip(report["sites"], simulation["sites"], strict=True):
        assert site["plan_epsilon"] == simulated_site["plan_epsilon"] <= 8.0
        assert site["plan_epsilon"] == pytest.approx(accountant.get_epsilon(1e-5), abs=0.01)
        assert site["rounds"] == 6


def signal_at_work(*aims: tuple[Guard, Ledger, signal.Signals]) -> None:
    """Send each guard its signal once it has reserved a round and not yet committed it."""
    waiting = list(aims)
    deadline = time.monotonic() + 300
    while waiting:
        for aim in waiting.copy():
            guard, ledger, number = aim
            assert time.monotonic() < deadline, guard.log.read_text()
            if ledger.reservations():
                guard.send(number)
                waiting.remove(aim)
        time.sleep(0.01)
