"""The private strategy around Flower's own: which sites and replies count, what is spent."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from dpbitfit_server import waiting
from dpbitfit_server.central_evaluation import PublicEvaluation
from dpbitfit_server.report import describe_run, write_report
from dpbitfit_server.strategy import PrivateStrategy
from flwr.app import ArrayRecord, ConfigRecord, Error, MetricRecord, RecordDict
from flwr.common import Array
from flwr.serverapp.strategy import FedAdam, FedAvg, FedMedian

from dpbitfit.accounting import composition
from dpbitfit.errors import BudgetError, InputError, ProtocolError
from dpbitfit.ledger import AccountName, Ledger, budget, repair, status
from dpbitfit.protocol.codec import FLOAT32
from dpbitfit.protocol.envelope import Envelope
from dpbitfit.protocol.flower import from_arrays, pack, payload_bytes, to_arrays, unpack
from dpbitfit.protocol.messages import RoundRequest
from dpbitfit.settings import RunSettings
from dpbitfit.simulate_command import print_summary
from dpbitfit.tasks.text_classification.settings import METRICS
from tests.support.ledgers import numbers

from ..support import plans
from ..support.coordinators import changed
from ..support.grids import PARAMETERS, PLAN, LocalGrid, Site

PHASE = PLAN.phases[0]
EVALUATED = {"accuracy": 0.5, "loss": 1.0}
START = to_arrays(np.zeros(PARAMETERS, dtype=np.float32))


def strategy(folder: Path, inner: FedAvg | None = None, **changes: Any) -> PrivateStrategy:
    settings = {"plan": PLAN, "parameters": PARAMETERS, "budget": 8.0, **changes}
    ledger = Ledger(str(folder / "coordinator.sqlite"), create=True)
    return PrivateStrategy(inner or FedAvg(), folder=folder, ledger=ledger, **settings)


def spent(strategy: PrivateStrategy) -> dict[str, int]:
    """Steps of this run at each site, from the ledger."""
    registry = strategy.registry
    return {name: registry.steps(site) for name, site in registry.sites.items()}


def sites(*names: str) -> dict[int, Site]:
    return {100 + number: Site(name) for number, name in enumerate(names)}


def final(strategy: PrivateStrategy, grid: LocalGrid, **options: Any) -> np.ndarray:
    return from_arrays(strategy.start(grid, START, **options).arrays, PARAMETERS)


def test_fedavg_weighs_by_declared_size(tmp_path: Path) -> None:
    nodes = {1: Site("a", size=100, change=1.0), 2: Site("b", size=300, change=-1.0)}
    biases = final(strategy(tmp_path), LocalGrid(nodes), num_rounds=1)
    assert biases == pytest.approx(np.full(PARAMETERS, -0.5))


def test_fedmedian_takes_the_median(tmp_path: Path) -> None:
    nodes = {n: Site(f"s{n}", change=change) for n, change in enumerate((0.1, 0.2, 1.5))}
    biases = final(strategy(tmp_path, FedMedian()), LocalGrid(nodes), num_rounds=1)
    assert biases == pytest.approx(np.full(PARAMETERS, 0.2))


def test_fedadam_steps_by_its_own_rule(tmp_path: Path) -> None:
    """Kingma and Ba 2015 on the mean change, as FedAdam writes it."""
    inner = FedAdam(eta=0.5, beta_1=0.9, beta_2=0.99, tau=1e-3)
    biases = final(strategy(tmp_path, inner), LocalGrid(sites("a", "b")), num_rounds=1)
    rate = 0.5 * np.sqrt(1 - 0.99**2) / (1 - 0.9**2)
    assert biases == pytest.approx(np.full(PARAMETERS, rate * 0.1 / (np.sqrt(0.01) + 1e-3)), 1e-5)


def test_every_round_is_charged_and_every_site_ends_at_the_plans_epsilon(tmp_path: Path) -> None:
    private = strategy(tmp_path)
    nodes = sites("a", "b")
    final(private, LocalGrid(nodes))
    whole = composition.epsilon({PHASE.mechanism: PHASE.steps}, PLAN.delta).epsilon
    for site in private.registry.sites.values():
        standing = private.registry.standing(site)
        assert standing.accrued.bound.epsilon == standing.promised == whole <= 8.0
    assert spent(private) == {"a": PHASE.steps, "b": PHASE.steps}
    assert not private.registry.ledger.reservations()
    assert [line["round"] for line in private.history] == [0, 1, 2, 3]
    assert [line["replies"] for line in private.history] == [0, 2, 2, 2]
    keys = [request.key for site in nodes.values() for request in site.requests]
    assert len(set(keys)) == 6


def test_a_round_is_on_disk_as_spent_before_any_message_leaves(tmp_path: Path) -> None:
    seen = []

    class Watching(Site):
        def train(self, envelope: Envelope) -> Any:
            seen.append(Ledger(str(tmp_path / "coordinator.sqlite")).reservations())
            return super().train(envelope)

    final(strategy(tmp_path), LocalGrid({1: Watching("a")}), num_rounds=1)
    assert [(one.round, one.counts) for one in seen[0]] == [(1, ((PHASE.mechanism, 2),))]


def test_a_message_carries_biases_plan_and_request_only(tmp_path: Path) -> None:
    grid = LocalGrid(sites("a"))
    final(strategy(tmp_path), grid, num_rounds=1)
    (message,) = grid.of("train")
    assert set(message.content) == {"envelope", "content"}
    envelope = unpack(message.content)
    assert set(json.loads(envelope.statement)) == {"plan", "run", "round", "key", "head"}
    assert json.loads(RoundRequest.decode(envelope.statement).plan) == json.loads(PLAN.encode())
    assert not FLOAT32.decode(envelope.content, PARAMETERS).any()


BAD: dict[str, Callable[[Site], None]] = {
    "NaN": lambda site: site.change.__setitem__(3, np.nan),
    "another shape": lambda site: setattr(site, "change", site.change[:-1]),
    "a huge norm": lambda site: setattr(site, "change", site.change * 1e6),
    "another site's name": lambda site: site.stated.update(facts={**site.facts, "site": "b"}),
    "another plan": lambda site: site.stated.update(plan_digest="x"),
    "another round": lambda site: site.stated.update(round=7),
    "another key": lambda site: site.stated.update(key="k" * 16),
    "a field more": lambda site: site.stated.update(records=60),
    "a fact more": lambda site: site.stated.update(facts={**site.facts, "records": 60}),
    "a long text": lambda site: site.stated.update(facts={**site.facts, "version": "x" * 300}),
    "a number as text": lambda site: site.stated.update(round="1"),
    "a refusal": lambda site: site.refuse_rounds("budget"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_reply_is_quarantined_and_the_rest_goes_on(case: str, tmp_path: Path) -> None:
    nodes = sites("a", "b", "c")
    BAD[case](nodes[100])
    private = strategy(tmp_path)
    biases = final(private, LocalGrid(nodes))
    assert biases == pytest.approx(np.full(PARAMETERS, 3.0))
    assert set(private.registry.refused) == {"a"}
    assert [len(site.requests) for site in nodes.values()] == [1, 3, 3]
    # Whatever it sent, it may have touched data: what was charged stays charged.
    assert spent(private) == {"a": 2, "b": 6, "c": 6}
    assert [line["refused"] for line in private.history] == [0, 1, 1, 1]


def answered(site: Site, request: Envelope) -> Envelope:
    reply = Site.train(site, request)
    assert isinstance(reply, Envelope)
    return reply


def extra_array(site: Site, request: Envelope) -> RecordDict:
    reply = pack(answered(site, request))
    reply.array_records["content"]["more"] = Array(np.zeros(3))
    return reply


def torn_array(site: Site, request: Envelope) -> RecordDict:
    reply = pack(answered(site, request))
    array = reply.array_records["content"]["content"]
    torn = Array(array.dtype, array.shape, array.stype, array.data[:-1])
    reply["content"] = ArrayRecord({"content": torn})
    return reply


def with_metrics(site: Site, request: Envelope) -> RecordDict:
    """What a relay puts beside the envelope."""
    reply = pack(answered(site, request))
    reply["metrics"] = MetricRecord({"records": 60})
    return reply


def with_a_record_count(site: Site, request: Envelope) -> RecordDict:
    reply = pack(answered(site, request))
    reply.config_records["envelope"]["records"] = 60
    return reply


def float64(site: Site, request: Envelope) -> RecordDict:
    reply = pack(answered(site, request))
    reply["content"] = ArrayRecord({"content": Array(np.zeros(PARAMETERS))})
    return reply


def another_change(site: Site, request: Envelope) -> Envelope:
    """A change that a relay has put in place of the site's."""
    return replace(answered(site, request), content=FLOAT32.encode(-site.change))


def another_round(site: Site, request: Envelope) -> Envelope:
    """A field that a relay has changed."""
    return changed(answered(site, request), round=2)


def another_spelling(site: Site, request: Envelope) -> Envelope:
    """The same values, not in canonical form; signed by the site itself."""
    reply = answered(site, request)
    spaced = json.dumps(json.loads(reply.statement), sort_keys=True).encode()
    return Envelope.sign(site.ledger.signer, "reply", spaced, reply.content)


def another_purpose(site: Site, request: Envelope) -> Envelope:
    reply = answered(site, request)
    return Envelope.sign(site.ledger.signer, "train", reply.statement, reply.content)


def another_site_signs(site: Site, request: Envelope) -> Envelope:
    reply = answered(site, request)
    other = Site("a").ledger.signer
    return Envelope.sign(other, "reply", reply.statement, reply.content)


ODD: dict[str, Callable[[Site, Envelope], Any]] = {
    "a torn array": torn_array,
    "a change that its site did not sign": another_change,
    "a round that its site did not sign": another_round,
    "another spelling": another_spelling,
    "another purpose": another_purpose,
    "a reply that another key signed": another_site_signs,
    "no content": lambda *_: RecordDict(),
    "an array more": extra_array,
    "a record more": with_metrics,
    "a field beside the statement": with_a_record_count,
    "float64": float64,
    "no update": lambda site, request: replace(answered(site, request), content=b""),
    "no update, signed": lambda site, request: Envelope.sign(
        site.ledger.signer, "reply", answered(site, request).statement
    ),
}


@pytest.mark.parametrize("case", ODD)
def test_an_odd_reply_is_quarantined_too(case: str, tmp_path: Path) -> None:
    nodes = sites("a", "b")
    nodes[100].train = lambda request: ODD[case](nodes[100], request)  # type: ignore[method-assign]
    private = strategy(tmp_path)
    assert final(private, LocalGrid(nodes), num_rounds=2) == pytest.approx(np.full(PARAMETERS, 2.0))
    assert set(private.registry.refused) == {"a"}


@pytest.mark.parametrize("answer", [None, Error(code=5, reason="node unavailable")])
def test_a_missing_reply_stays_spent_and_the_site_is_asked_again(
    answer: Error | None, tmp_path: Path
) -> None:
    nodes = sites("a", "b")
    replies = iter([answer])
    usual = nodes[100].train
    nodes[100].train = lambda request: next(replies, None) or usual(request)  # type: ignore[method-assign]
    private = strategy(tmp_path)
    final(private, LocalGrid(nodes))
    assert spent(private) == {"a": 6, "b": 6}
    assert not private.registry.refused
    assert len(nodes[100].requests) == 3
    assert private.registry.sites["b"].rounds == 3


def test_a_lost_answer_stays_spent_and_the_site_is_asked_again(tmp_path: Path) -> None:
    nodes = sites("a", "b")
    usual = nodes[100].train

    def lose_the_first(request: Envelope) -> Any:
        reply = usual(request)
        if len(nodes[100].requests) > 1:
            return reply
        return nodes[100].refusal("answer-lost", head=json.loads(reply.statement)["head"])

    nodes[100].train = lose_the_first  # type: ignore[method-assign]
    private = strategy(tmp_path)
    final(private, LocalGrid(nodes))
    assert spent(private) == {"a": 6, "b": 6}
    assert not private.registry.refused
    keys = [request.key for request in nodes[100].requests]
    assert len(set(keys)) == 3
    outcomes = [r.outcome for r in private.registry.ledger.reservations(state="committed")]
    assert sorted(outcomes) == ["answer-lost", *["reply"] * 5]


def test_fewer_than_k_replies_change_nothing(tmp_path: Path) -> None:
    nodes = sites("a", "b")
    nodes[100].train = lambda _: None  # type: ignore[method-assign]
    private = strategy(tmp_path, min_replies=2)
    assert not final(private, LocalGrid(nodes), num_rounds=1).any()
    assert private.history[-1]["replies"] == 0
    assert spent(private) == {"a": 2, "b": 2}


def test_it_stops_gracefully_when_too_few_may_go_on(tmp_path: Path) -> None:
    nodes = sites("a", "b")
    nodes[101].change[0] = np.nan
    private = strategy(tmp_path, min_replies=2)
    biases = final(private, LocalGrid(nodes))
    assert not biases.any()
    assert "2 are needed" in private.stopped
    assert private.history[-1]["round"] == 1


TURNED_AWAY = [
    {"layout_digest": "x"},
    {"model_digest": "x"},
    {"declared_size": 0},
    {"declared_size": "many"},
    {"site": ""},
    {"site": "a\x00b"},
    {"records": 60},
    "bad-input",
]


@pytest.mark.parametrize("change", TURNED_AWAY, ids=lambda change: repr(change)[:40])
def test_sites_that_do_not_fit_are_turned_away(
    change: dict[str, Any] | str, tmp_path: Path
) -> None:
    nodes = sites("a", "b")
    if isinstance(change, str):
        nodes[100].refuses = change
    else:
        nodes[100].facts.update(change)
    grid = LocalGrid(nodes)
    private = strategy(tmp_path)
    final(private, grid)
    assert set(private.registry.sites) == {"b"}
    assert not nodes[100].requests
    assert len(grid.of("query")) == 2  # asked once, not again each round


@pytest.mark.parametrize("name", ["declared_size", "site", "signature"])
def test_a_description_that_its_site_did_not_sign_is_turned_away(name: str, tmp_path: Path) -> None:
    nodes = sites("a", "b")
    usual = nodes[100].describe

    def forge(question: Envelope) -> Envelope:
        reply = usual(question)
        if name == "signature":
            return replace(reply, signature="00" * 64)
        facts = json.loads(reply.statement)["facts"]
        return changed(reply, facts={**facts, name: {"declared_size": 10**6, "site": "c"}[name]})

    nodes[100].describe = forge  # type: ignore[method-assign]
    private = strategy(tmp_path)
    final(private, LocalGrid(nodes), num_rounds=1)
    assert set(private.registry.sites) == {"b"}
    assert not nodes[100].requests


def test_two_nodes_of_one_name_are_one_site(tmp_path: Path) -> None:
    nodes = {1: Site("a"), 2: Site("a")}
    private = strategy(tmp_path)
    final(private, LocalGrid(nodes))
    assert sum(len(site.requests) for site in nodes.values()) == 3
    assert spent(private) == {"a": 6}


def test_no_site_at_all_is_an_error_that_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "SECONDS_FOR_NODES", 0.0)
    with pytest.raises(ProtocolError, match="no node is online"):
        final(strategy(tmp_path), LocalGrid({}))
    nodes = sites("a")
    for code, why in (
        ("bad-input", "the code 'bad-input'"),
        ("policy", "its guard's log names what"),
        ("round-failed", "its guard's log names which"),
    ):
        nodes[100].refuses = code
        with pytest.raises(ProtocolError, match=why):
            final(strategy(tmp_path), LocalGrid(nodes))


def test_a_plan_above_the_budget_is_refused_before_any_message(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="budget of 1"):
        strategy(tmp_path, budget=1.0)


@pytest.mark.parametrize("inner", [FedAvg, FedAdam])
def test_a_resumed_run_goes_on_where_it_stopped(inner: type[FedAvg], tmp_path: Path) -> None:
    whole = final(strategy(tmp_path / "whole", inner()), LocalGrid(sites("a", "b")))
    first = strategy(tmp_path / "cut", inner())
    nodes = sites("a", "b")
    final(first, LocalGrid(nodes), num_rounds=2)
    second = strategy(tmp_path / "cut", inner())
    lines: list[dict[str, Any]] = []
    second._on_round = lines.append
    assert second.resume()
    assert final(second, LocalGrid(nodes)) == pytest.approx(whole, rel=1e-6)
    assert [len(site.requests) for site in nodes.values()] == [3, 3]
    assert spent(second) == {"a": 6, "b": 6}
    assert [line["round"] for line in lines] == [0, 1, 2, 3]


def test_a_run_that_is_complete_knows_its_sites_when_it_is_resumed(tmp_path: Path) -> None:
    nodes = sites("a", "b")
    before = final(strategy(tmp_path), LocalGrid(nodes))
    again = strategy(tmp_path)
    assert again.resume()
    assert again.is_complete
    assert final(again, LocalGrid(nodes)) == pytest.approx(before)
    assert set(again.registry.sites) == {"a", "b"}
    assert [len(site.requests) for site in nodes.values()] == [3, 3]


def test_a_resumed_run_that_may_spend_nothing_ends_with_its_model(tmp_path: Path) -> None:
    nodes = sites("a", "b")
    before = final(strategy(tmp_path), LocalGrid(nodes), num_rounds=2)
    again = strategy(tmp_path)
    assert again.resume()
    for name in ("a", "b"):
        again.registry.ledger.void_rest(AccountName(name, "records", "record"), again.registry.run)
    assert final(again, LocalGrid(nodes)) == pytest.approx(before)
    assert "before round 3" in again.stopped
    assert [len(site.requests) for site in nodes.values()] == [2, 2]


def test_a_crash_in_a_round_never_gives_the_charge_back(tmp_path: Path) -> None:
    class Crashing(LocalGrid):
        def pull_messages(self, message_ids: Any) -> Any:
            replies = super().pull_messages(message_ids)
            if len(self.of("train")) == 4:
                raise KeyboardInterrupt
            return replies

    nodes = sites("a", "b")
    with pytest.raises(KeyboardInterrupt):
        final(strategy(tmp_path), Crashing(nodes))
    again = strategy(tmp_path)
    assert [one.round for one in again.registry.ledger.reservations()] == [2, 2]
    assert again.resume()
    biases = final(again, LocalGrid(nodes))
    # The lost round was asked for again under its keys: the same replies, and no second charge.
    assert biases == pytest.approx(np.full(PARAMETERS, 3.0))
    for site in nodes.values():
        keys = [request.key for request in site.requests]
        assert len(keys) == 4
        assert len(set(keys)) == 3
    assert spent(again) == {"a": 6, "b": 6}


def test_a_round_that_is_asked_for_again_has_another_key_where_the_answer_was_lost(
    tmp_path: Path,
) -> None:
    """The lost answer is spent, and its key with it; who did answer is asked under the same key."""

    class Dying(FedAvg):
        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            if server_round == 2:
                raise KeyboardInterrupt
            return super().aggregate_train(server_round, replies)

    nodes = sites("a", "b")
    usual = nodes[100].train
    nodes[100].train = lambda request: usual(request) if len(nodes[100].requests) != 2 else None  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        final(strategy(tmp_path, Dying()), LocalGrid(nodes))
    again = strategy(tmp_path)
    assert again.resume()
    final(again, LocalGrid(nodes), num_rounds=2)
    (_, lost, anew), (_, first, same) = [
        [request.key for request in site.requests] for site in nodes.values()
    ]
    assert lost != anew
    assert first == same
    assert spent(again) == {"a": 6, "b": 4}
    assert again.history[-1]["replies"] == 2
    assert not again.registry.refused


def test_two_runs_on_the_same_records_add_up_and_a_third_is_refused_unasked(
    tmp_path: Path,
) -> None:
    nodes = sites("a", "b")
    bounds = []
    for number in (1, 2):
        private = strategy(tmp_path, budget=6.0)
        final(private, LocalGrid(nodes))
        assert len(nodes[100].requests) == 3 * number
        bounds.append(private.registry.standing(private.registry.sites["a"]).accrued.bound.epsilon)
    assert bounds[0] == composition.epsilon({PHASE.mechanism: PHASE.steps}, PLAN.delta).epsilon
    order = private.registry.sites["a"].account.filter_order
    both = budget.filtered(((PHASE.mechanism, 2 * PHASE.steps),), PLAN.delta, order)
    assert bounds[1] == both.epsilon
    refused = strategy(tmp_path, budget=6.0)
    for name in ("a", "b"):  # what a third run would fit in, if results did not matter
        tight = composition.epsilon({PHASE.mechanism: 2 * PHASE.steps}, PLAN.delta).epsilon
        refused.registry.ledger.set_budget(
            AccountName(name, "records", "record"), tight + 0.1, "test"
        )
    text = r"a/records/record: with this plan epsilon would be .*; no noise multiplier makes 6 more"
    with pytest.raises(BudgetError, match=text):
        final(refused, LocalGrid(nodes))
    assert len(nodes[100].requests) == len(nodes[101].requests) == 6


def test_a_site_over_its_budget_is_left_out_and_named(tmp_path: Path) -> None:
    nodes = sites("a", "b")
    first = strategy(tmp_path)
    final(first, LocalGrid(nodes))
    first.registry.ledger.set_budget(AccountName("a", "records", "record"), 0.1, "enough")
    second = strategy(tmp_path)
    final(second, LocalGrid(nodes))
    assert set(second.registry.refused) == {"a"}
    assert "above its budget of 0.1" in second.registry.refused["a"]
    assert [len(site.requests) for site in nodes.values()] == [3, 6]


def test_after_a_second_run_the_bound_is_the_budget_and_the_rest_is_informative(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In progress, report and page, as in what ``simulate`` prints."""
    nodes = sites("a")
    lines: list[dict[str, Any]] = []
    for _ in range(2):
        lines.clear()
        private = strategy(tmp_path, budget=6.0, on_round=lines.append)
        final(private, LocalGrid(nodes), evaluate_fn=lambda *_: MetricRecord(EVALUATED))
    no_bound = composition.epsilon({PHASE.mechanism: 2 * PHASE.steps}, PLAN.delta).epsilon
    accrued = private.registry.standing(private.registry.sites["a"]).accrued.bound.epsilon
    assert no_bound < accrued < 6.0
    settings = SimpleNamespace(run=SimpleNamespace(model="minilm", declared_size=0, test_data=""))
    biases = np.zeros(PARAMETERS, dtype=np.float32)
    layout = SimpleNamespace(left_out_by_reason={})
    task = SimpleNamespace(metrics=METRICS, headline="accuracy", pretrained=biases, layout=layout)
    evaluation = cast(PublicEvaluation, SimpleNamespace(task=task, parameters=1000))
    report = describe_run(cast(RunSettings, settings), private, evaluation, biases)
    write_report(tmp_path, report)
    (site,) = report["sites"]
    assert (site["guaranteed"], site["accrued"], site["budget"]) == (6.0, accrued, 6.0)
    assert site["basis"] == status.FILTERED
    assert report["privacy"]["accrued"] == status.ACCRUED
    assert site["warning"] == ""
    private.registry.sites["a"].declared_size = round(1 / PLAN.delta)
    (warned,) = describe_run(cast(RunSettings, settings), private, evaluation, biases)["sites"]
    assert "promises nothing" in warned["warning"]
    write_report(tmp_path, {**report, "sites": [warned]})
    assert "promises nothing" in (tmp_path / "report.html").read_text()
    write_report(tmp_path, report)
    assert [(line["guaranteed"], line["accrued"]) for line in lines[1:]][-1] == (6.0, accrued)
    assert {line["guaranteed"] for line in lines[1:]} == {6.0}
    for output in (lines, json.loads((tmp_path / "report.json").read_text())):
        assert no_bound not in numbers(output)
    print_summary(report, tmp_path)
    for page in ((tmp_path / "report.html").read_text(), capsys.readouterr().out):
        assert "6.000" in page
        assert f"{accrued:.3f}" in page
        assert f"{no_bound:.3f}" not in page
        assert status.INFORMATIVE in page


def test_a_site_whose_budget_is_lowered_here_is_left_out_and_the_rest_goes_on(
    tmp_path: Path,
) -> None:
    nodes = sites("a", "b")
    private = strategy(tmp_path)
    name = AccountName("a", "records", "record")

    def lower(line: dict[str, Any]) -> None:
        if line["round"] == 1:
            private.registry.ledger.set_budget(name, 0.1, "the board")

    private._on_round = lower
    final(private, LocalGrid(nodes))
    assert [len(site.requests) for site in nodes.values()] == [1, 3]
    assert "budget was lowered" in private.registry.refused["a"]
    assert spent(private) == {"a": 2, "b": 6}
    again = strategy(tmp_path)  # what was taken back stays so, though the budget is raised again
    again.registry.ledger.set_budget(name, 8.0, "the board")
    assert again.resume()
    final(again, LocalGrid(nodes))
    assert [len(site.requests) for site in nodes.values()] == [1, 3]


def test_a_budget_that_is_lowered_while_a_round_is_reserved_stops_that_site_alone(
    tmp_path: Path,
) -> None:
    nodes = sites("a", "b")
    private = strategy(tmp_path)
    ledger, reserve = private.registry.ledger, private.registry.ledger.reserve

    def late(*asked: Any) -> None:
        if asked[1] == 2:
            ledger.set_budget(AccountName("a", "records", "record"), 0.1, "the board")
            ledger.reserve = reserve  # type: ignore[method-assign]
        reserve(*asked)

    ledger.reserve = late  # type: ignore[method-assign]
    final(private, LocalGrid(nodes))
    assert [len(site.requests) for site in nodes.values()] == [1, 3]
    assert spent(private) == {"a": 2, "b": 6}
    assert not ledger.reservations()


def test_a_resumed_run_is_not_asked_for_more_than_the_budget_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A budget that a version lowered which took nothing back."""
    nodes = sites("a", "b")
    first = strategy(tmp_path)
    final(first, LocalGrid(nodes), num_rounds=1)
    with monkeypatch.context() as older:
        older.setattr(budget, "excess", lambda *_: {})
        for name in ("a", "b"):
            first.registry.ledger.set_budget(
                AccountName(name, "records", "record"), 0.1, "the board"
            )
    second = strategy(tmp_path)
    assert second.resume()
    final(second, LocalGrid(nodes))
    assert [len(site.requests) for site in nodes.values()] == [1, 1]
    assert set(second.registry.refused) == {"a", "b"}


def test_a_signed_statement_gives_a_round_back_and_nothing_else_does(tmp_path: Path) -> None:
    def refuse(site: Site, signed: bool) -> Callable[[Envelope], Envelope]:
        def train(request: Envelope) -> Envelope:
            key = RoundRequest.decode(request.statement).key
            signature = site.ledger.signer.sign("untouched", {"key": key})
            promise = signature if signed else "0" * 128
            return site.refusal("budget", key, site.head(request.sender, key), promise)

        return train

    nodes = sites("a", "b", "c")
    nodes[100].train = refuse(nodes[100], signed=True)  # type: ignore[method-assign]
    nodes[101].train = refuse(nodes[101], signed=False)  # type: ignore[method-assign]
    private = strategy(tmp_path)
    final(private, LocalGrid(nodes), num_rounds=1)
    assert spent(private) == {"a": 0, "b": 2, "c": 2}
    assert set(private.registry.refused) == {"a", "b"}


def test_a_site_whose_ledger_was_lost_is_refused_until_it_is_settled(tmp_path: Path) -> None:
    nodes = sites("a", "b")
    final(strategy(tmp_path), LocalGrid(nodes))
    nodes[100] = Site("a")
    private = strategy(tmp_path)
    final(private, LocalGrid(nodes), num_rounds=1)
    assert set(private.registry.sites) == {"b"}
    assert not nodes[100].requests
    ledger = private.registry.ledger
    account = ledger.account(AccountName("a", "records", "record"))
    message = repair.statement(nodes[100].ledger, nodes[100].account, ledger.id)
    list(repair.hear(ledger, [message]))
    repair.rebase(ledger, account, "confirmed by telephone", stated=[nodes[100].ledger.id])
    final(strategy(tmp_path), LocalGrid(nodes), num_rounds=1)
    assert not nodes[100].requests  # one side alone does not clear it
    repair.rebase(nodes[100].ledger, nodes[100].account, "begun anew")
    settled = strategy(tmp_path)
    final(settled, LocalGrid(nodes), num_rounds=1)
    assert len(nodes[100].requests) == 1
    held = settled.registry.ledger.allotments([1])[1]
    assert {of[0] for of in nodes[100].ledger.allotments([1])[1]} == {of[0] for of in held}


def test_a_coordinator_that_was_restored_goes_on_under_fresh_keys(tmp_path: Path) -> None:
    """It has forgotten which it used; a site gives none of them a second answer."""
    nodes = sites("a", "b")
    private = strategy(tmp_path)
    final(private, LocalGrid(nodes), num_rounds=1)
    private.registry.ledger.database.close()
    kept = {file: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}
    later = strategy(tmp_path)
    assert later.resume()
    final(later, LocalGrid(nodes), num_rounds=2)
    later.registry.ledger.database.close()
    for file in tmp_path.iterdir():
        file.unlink()
    for file, content in kept.items():
        file.write_bytes(content)
    restored = strategy(tmp_path)
    assert restored.resume()
    with pytest.raises(ProtocolError, match="a backup was restored"):
        final(restored, LocalGrid(nodes))
    ledger = restored.registry.ledger
    for account in ledger.accounts():
        repair.rebase(ledger, account, "restored")
    for site in nodes.values():
        repair.rebase(site.ledger, site.account, "restored")
    ledger.database.close()
    settled = strategy(tmp_path)
    assert settled.resume()
    final(settled, LocalGrid(nodes))
    assert [line["replies"] for line in settled.history] == [0, 2, 2]
    assert not settled.registry.refused


def test_a_checkpoint_of_another_plan_is_refused(tmp_path: Path) -> None:
    final(strategy(tmp_path), LocalGrid(sites("a")), num_rounds=1)
    other = strategy(tmp_path, plan=plans.plan(PLAN, noise_multiplier=3.0))
    with pytest.raises(InputError, match="another plan"):
        other.resume()
    (tmp_path / "checkpoint.npz").write_bytes(b"PK damaged")
    with pytest.raises(InputError, match="damaged"):
        strategy(tmp_path).resume()
    assert not strategy(tmp_path / "nothing").resume()


def test_a_site_that_comes_back_as_another_node_keeps_its_account(tmp_path: Path) -> None:
    grid = LocalGrid(sites("a", "b"))
    private = strategy(tmp_path)

    def move(line: dict[str, Any]) -> None:
        if line["round"] == 1:
            grid.nodes[555] = grid.nodes.pop(100)

    private._on_round = move
    final(private, grid)
    assert spent(private) == {"a": 6, "b": 6}
    assert private.registry.sites["a"].node == 555


def test_evaluation_is_central_and_its_figures_are_kept(tmp_path: Path) -> None:
    def evaluate(_: int, arrays: ArrayRecord) -> MetricRecord:
        value = float(from_arrays(arrays, PARAMETERS)[0])
        return MetricRecord({"accuracy": value, "loss": -value})

    grid = LocalGrid(sites("a"))
    private = strategy(tmp_path)
    result = private.start(grid, START, evaluate_fn=evaluate)
    assert [line["metrics"]["accuracy"] for line in private.history] == [0.0, 1.0, 2.0, 3.0]
    assert result.evaluate_metrics_serverapp[3]["loss"] == -3.0
    assert not grid.of("evaluate")


def test_bytes_are_those_of_the_payload(tmp_path: Path) -> None:
    grid = LocalGrid(sites("a", "b"))
    private = strategy(tmp_path)
    final(private, grid, num_rounds=1)
    down = sum(payload_bytes(message) for message in grid.of("train"))
    line = private.history[-1]
    assert line["bytes_down"] == down
    assert 2 * 4 * PARAMETERS < line["bytes_up"] < down
    failed = Error(code=5, reason="gone")
    assert payload_bytes(type(grid.sent[0])(failed, reply_to=grid.sent[0])) == 0


def test_flowers_config_reaches_the_wrapped_strategy(tmp_path: Path) -> None:
    seen = []

    class Watching(FedAvg):
        def configure_train(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Any:
            seen.append((server_round, dict(config), list(grid.get_node_ids())))
            return super().configure_train(server_round, arrays, config, grid)

    private = strategy(tmp_path, Watching())
    final(private, LocalGrid(sites("a")), num_rounds=1, train_config=ConfigRecord({"x": 1}))
    assert seen == [(1, {"x": 1}, [100])]
