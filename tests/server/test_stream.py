"""Who is waited for, lost, refused and back: by name in Flower's log, and in a round's line."""

from collections.abc import Callable, Iterable, Iterator
from logging import Handler, LogRecord
from pathlib import Path
from typing import Any

import pytest
from dpbitfit_server import waiting
from flwr.app import Error, Message, MessageType, RecordDict
from flwr.common.constant import ErrorCode
from flwr.common.logger import FLOWER_LOGGER
from flwr.proto.node_pb2 import NodeInfo

from dpbitfit import stream
from dpbitfit.errors import BudgetError, ProtocolError, RunFailed
from dpbitfit.ledger import AccountName, Ledger

from ..support.grids import PLAN, Clock, LocalGrid, Site
from .test_strategy import final, sites, strategy

NAMES = {100: "hospital-1", 101: "hospital-2", 102: "hospital-3"}


class Registered(LocalGrid):
    """Nodes with registered names, of which some may be offline."""

    def __init__(self, nodes: dict[int, Any]) -> None:
        super().__init__(nodes)
        self.offline = set[int]()

    def get_node_ids(self) -> list[int]:
        return [node for node in self.nodes if node not in self.offline]

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [NodeInfo(node_id=node, name=NAMES[node]) for node in self.get_node_ids()]


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What ``dpbitfit run`` shows of the log."""
    shown: list[str] = []

    class Shown(Handler):
        def emit(self, record: LogRecord) -> None:
            if (text := stream.read(f"INFO :      {record.getMessage()}")) is not None:
                shown.append(str(text))

    handler = Shown()
    FLOWER_LOGGER.addHandler(handler)
    yield shown
    FLOWER_LOGGER.removeHandler(handler)


def instead(site: Site, *answers: Any) -> None:
    """Answer the first rounds so; a function makes its answer of the request."""
    usual, queue = site.train, list(answers)

    def train(request: Any) -> Any:
        if not queue:
            return usual(request)
        answer = queue.pop(0)
        return answer(request) if callable(answer) else answer

    site.train = train  # type: ignore[method-assign]


LOST: dict[str, tuple[Callable[[Site], Any], str]] = {
    "nothing": (lambda _: None, "no reply in time"),
    "a dead client process": (
        lambda _: Error(ErrorCode.CLIENT_APP_CRASHED, "secret of a record"),
        "its client process died",
    ),
    "a dead node": (lambda _: Error(ErrorCode.NODE_UNAVAILABLE, ""), "its SuperNode is gone"),
    "an error of later Flowers": (lambda _: Error(99, ""), "its SuperNode reports an error"),
    "no guard": (lambda site: site.refusal("guard-unavailable"), "its guard does not answer"),
}


@pytest.mark.parametrize("case", LOST)
def test_a_site_that_is_lost_and_returns_is_named(
    case: str, lines: list[str], tmp_path: Path
) -> None:
    nodes = sites("hospital-1", "hospital-2")
    answer, why = LOST[case]
    instead(nodes[101], lambda _: answer(nodes[101]))
    private = strategy(tmp_path)
    final(private, Registered(nodes))
    assert f"round 1: nothing from hospital-2: {why}" in lines
    assert "round 2: hospital-2 replies again" in lines
    assert [line["missing"] for line in private.history] == [{}, {"hospital-2": why}, {}, {}]
    (first,) = [line for line in lines if line.startswith("round 1/3")]
    assert first.endswith(f"without hospital-2 ({why})")
    assert not any("secret" in line for line in lines)


def test_a_site_that_goes_offline_and_comes_back_is_named(lines: list[str], tmp_path: Path) -> None:
    grid = Registered(sites("hospital-1", "hospital-2"))
    private = strategy(tmp_path, expected_sites=2)

    def on_round(line: dict[str, Any]) -> None:
        grid.offline = {101} if line["round"] == 1 else set()

    private._on_round = on_round
    final(private, grid)
    assert [line for line in lines if "line" in line and "round" not in line] == [
        "hospital-2 is offline",
        "hospital-2 is online again",
    ]
    assert [line["missing"] for line in private.history] == [{}, {}, {"hospital-2": "offline"}, {}]


def test_who_is_turned_away_or_left_out_is_named(lines: list[str], tmp_path: Path) -> None:
    nodes = sites("hospital-1", "hospital-2", "hospital-3")
    nodes[100].refuses = "policy"
    nodes[101].refuse_rounds("budget")
    private = strategy(tmp_path)
    final(private, Registered(nodes))
    why = "its policy does not allow this plan: its guard's log names what"
    assert f"hospital-1 is turned away: {why}" in lines
    assert any(line.startswith("hospital-2 is left out from now on: ") for line in lines)
    missing = {"hospital-1": "turned away", "hospital-2": "left out"}
    assert private.history[-1]["missing"] == missing


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (Error(ErrorCode.CLIENT_APP_CRASHED, ""), "its client process died"),
        (None, "no reply in time"),
    ],
)
def test_a_site_that_cannot_describe_itself_is_named_and_asked_again(
    answer: Error | None, why: str, lines: list[str], tmp_path: Path
) -> None:
    nodes: dict[int, Any] = dict(sites("hospital-1", "hospital-2"))
    usual, first = nodes[101], [True]

    def lost_once(message: Message) -> Any:
        return answer if first and first.pop() else usual(message)

    nodes[101] = lost_once
    private = strategy(tmp_path)
    final(private, Registered(nodes))
    assert f"hospital-2 is asked again later: {why}" in lines
    assert [line["replies"] for line in private.history] == [0, 1, 2, 2]


def test_when_no_site_takes_part_each_is_named_with_its_reason(tmp_path: Path) -> None:
    nodes = sites("hospital-1", "hospital-2")
    nodes[100].refuses, nodes[101].refuses = "policy", "internal"
    with pytest.raises(ProtocolError) as raised:
        final(strategy(tmp_path), Registered(nodes))
    assert "hospital-1: its policy does not allow" in str(raised.value)
    assert "hospital-2: it refused with the code 'internal'" in str(raised.value)


def test_late_replies_are_waited_for_by_name_and_in_time(lines: list[str], clock: Clock) -> None:
    class Late(Registered):
        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            with self._lock:
                return self._pull(message_ids)

        def _pull(self, message_ids: Iterable[str]) -> Iterable[Message]:
            replies = list(super().pull_messages(message_ids))
            late = [one for one in replies if clock.monotonic() < due[one.metadata.src_node_id]]
            self._replies += late
            return [one for one in replies if one not in late]

    due = {100: 0.0, 101: 40.0, 102: 200.0}
    grid = Late(dict.fromkeys(NAMES, lambda message: message.content))
    messages = [Message(RecordDict(), node, MessageType.QUERY) for node in NAMES]
    assert len(waiting.ask(grid, messages, NAMES, 1000.0)) == 3
    assert lines[0] == "waiting for 2 of 3 sites: hospital-2, hospital-3"
    assert lines[-1] == "waiting for 1 of 3 sites: hospital-3"
    assert len(lines) < 8  # less and less often
    assert 200 <= clock.monotonic() < 210
    due[102] = 2000.0
    assert waiting.ask(grid, [Message(RecordDict(), 102, MessageType.QUERY)], NAMES, 1000.0) == []
    assert 1200 <= clock.monotonic() < 1210


@pytest.mark.parametrize("taken", [0, 2])
def test_what_flower_does_not_take_is_not_waited_for(taken: int, clock: Clock) -> None:
    class Refusing(Registered):
        def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
            keys = list(super().push_messages(messages))
            return ["", *keys[1:]] if taken else []

    grid = Refusing(dict.fromkeys(NAMES, lambda message: message.content))
    messages = [Message(RecordDict(), node, MessageType.QUERY) for node in NAMES]
    assert len(waiting.ask(grid, messages, NAMES, 1000.0)) == taken
    assert clock.monotonic() == 0


def test_a_second_node_of_a_sites_name_makes_it_no_missing_one(tmp_path: Path) -> None:
    class Twins(Registered):
        def get_nodes(self) -> Iterable[NodeInfo]:
            return [NodeInfo(node_id=node, name="hospital-1") for node in self.get_node_ids()]

    private = strategy(tmp_path)
    final(private, Twins({100: Site("hospital-1"), 101: Site("hospital-1")}), num_rounds=1)
    assert len(private.registry.turned_away) == 1
    assert private.history[-1]["missing"] == {}


def test_a_site_that_is_not_there_when_a_run_begins_is_named(
    lines: list[str], tmp_path: Path
) -> None:
    ledger = Ledger(str(tmp_path / "coordinator.sqlite"), create=True)
    for name in NAMES.values():
        ledger.open_account(AccountName(name, "records", PLAN.unit), PLAN.delta, 8.0)
    ledger.open_account(AccountName("hospital-9", "records", "patient"), PLAN.delta, 8.0)
    ledger.database.close()
    grid = Registered(sites("hospital-1", "hospital-2", "hospital-3"))
    grid.offline = {101}
    final(strategy(tmp_path, expected_sites=3), grid, num_rounds=1)
    waits = [line for line in lines if line.startswith("waiting")]
    assert len(waits) > 1
    assert waits[0] == "waiting for 1 of 3 sites: hospital-2"
    # Which are missing is not known where others may be meant.
    lines.clear()
    grid.offline = {101, 102}
    final(strategy(tmp_path, expected_sites=4), grid, num_rounds=1)
    waits = [line for line in lines if line.startswith("waiting")]
    assert waits[0] == "waiting for 3 of 4 sites: online are hospital-1"


def test_the_price_of_a_plan_on_an_account_is_said_before_its_first_round(
    lines: list[str], tmp_path: Path
) -> None:
    """The second plan is chosen after results: it makes the whole budget the guarantee."""
    nodes = sites("a")
    for budget in (6.0, 6.0):
        private = strategy(tmp_path, budget=budget)
        final(private, LocalGrid(nodes))
    cost = f"the plan costs epsilon {private.cost.epsilon:.3f} by itself"
    first, second = (line for line in lines if cost in line)
    assert f"from 0.000 to {private.cost.epsilon:.3f}, of a budget of 6," in first
    assert f"from {private.cost.epsilon:.3f} to 6.000, of a budget of 6," in second
    assert "plans were added after results were seen" in second
    assert lines.index(first) < lines.index(second)


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (BudgetError("too much:\n it is"), BudgetError, "too much: it is"),
        (KeyError("x"), RunFailed, "KeyError: 'x'"),
        (MemoryError(), RunFailed, "MemoryError"),
    ],
)
def test_a_failure_is_one_line_that_gives_the_same_error(
    error: Exception, kind: type[Exception], text: str
) -> None:
    line = stream.failure(error)
    assert "\n" not in line
    read = stream.read(f"\x1b[91mERROR\x1b[0m :     {line}\n")
    assert type(read) is kind
    assert str(read) == text
    assert stream.read("INFO :      configure_train: Sampled 2 nodes\n") is None


def test_a_sites_name_ends_no_run() -> None:
    for name in ("failed: budget: too much", stream.failure(BudgetError("too much"))):
        text = f"{name} takes part"
        assert stream.read(f"INFO :      {stream.marked(text)}\n") == text


def test_a_line_without_news_of_sites_reads(tmp_path: Path) -> None:
    """As a checkpoint of an earlier version holds it."""
    line = {"round": 1, "metrics": {"accuracy": None}, "guaranteed": 1.0, "accrued": 0.5}
    line |= {"bytes_up": 1500, "bytes_down": 2000}
    text = stream.round_line(line)
    assert text.startswith("accuracy –  epsilon: guaranteed 1.00, accrued 0.50  up 2 kB")
    assert "epsilon" not in stream.round_line({**line, "round": 0})  # no account is known yet
