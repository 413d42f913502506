"""The site's own log: a line for each request and budget, the reasons, and nothing of records."""

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dpbitfit_client.guard.audit import JsonLines
from dpbitfit_client.guard.service import serving
from dpbitfit_client.message import Refused
from dpbitfit_client.policy.policy import Policy

from dpbitfit.accounting.composition import epsilon
from dpbitfit.accounting.mechanism import Mechanism
from dpbitfit.errors import InputError
from dpbitfit.plan import Plan
from dpbitfit.tasks.text_classification.task import TextClassification

from ...support import plans
from ...support.coordinators import Coordinator
from ...support.sites import GOOD, Site, begin, made

SECRET = "my secret diagnosis"
FACTS = {
    *("event", "request", "key", "verified", "coordinator", "run", "round", "account"),
    *("outcome", "reason", "charged", "delta", "bytes_out"),
}


@pytest.fixture
def site(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A site whose guard may be served in this process."""
    with made(corpus) as site:
        for name in ("DPBITFIT_TOUCHED", "DPBITFIT_LETTERS"):
            monkeypatch.setenv(name, site.environment[name])
        site.write()
        begin(site.ledger_file)
        yield site


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[list[dict[str, Any]]]:
    """The audit log's lines, as JSON gives them."""
    written: list[dict[str, Any]] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            written.append(json.loads(JsonLines().format(record)))

    log, handler = logging.getLogger("dpbitfit.guard.audit"), Kept()
    caplog.set_level(logging.INFO, log.name)
    log.addHandler(handler)
    yield written
    log.removeHandler(handler)


def refuse(site: Site, plan: Plan, **options: Any) -> str:
    with pytest.raises(Refused) as refused:
        site.train(plan, **options)
    return refused.value.code


def test_each_request_leaves_a_line_that_says_what_it_cost(
    site: Site, lines: list[dict[str, Any]], corpus: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(Policy.read(site.policy)):
        plan = site.plan()
        request = site.request(plan)
        reply = site.relay().train(request)
        assert site.relay().train(request).content == reply.content
        assert refuse(site, plans.plan(plan, noise_multiplier=0.5)) == "policy"
        assert refuse(site, plans.plan(plan, model_digest="2" * 64)) == "protocol"
        assert refuse(site, plans.plan(plan, logit_scale=1e300)) == "bad-input"
    asked, trained, again, *refused = lines
    mechanism = {Mechanism(20.0, 0.1): 1}
    for line in lines:
        assert line.keys() - {"at", "level"} <= FACTS
        assert line["coordinator"] == "office" or not line["verified"]
        assert line["key"] == site.office.ledger.id
    assert (asked["request"], asked["outcome"], asked["charged"]) == ("describe", "answered", 0)
    assert (trained["request"], trained["run"], trained["round"]) == ("train", "run-1", 1)
    assert trained["charged"] == epsilon(mechanism, 1e-5).epsilon
    assert trained["bytes_out"] == len(reply.statement) + len(reply.content)
    assert (again["outcome"], again["charged"]) == ("answered before: the same bytes", 0)
    assert [line["outcome"] for line in refused] == ["policy", "protocol", "bad-input"]
    assert [line["charged"] for line in refused] == [0, 0, 0]
    assert "noise_multiplier from 1, not 0.5" in refused[0]["reason"]
    assert "another model" in refused[1]["reason"]
    assert "logit" in refused[2]["reason"]
    texts = [text[:30] for text in corpus.read_text().splitlines()[1:]]
    assert [text for text in texts if text in caplog.text] == []


def test_who_is_not_known_is_told_to_the_site_and_not_by_name(
    site: Site, lines: list[dict[str, Any]], tmp_path: Path
) -> None:
    stranger = Coordinator(tmp_path)
    with serving(Policy.read(site.policy)):
        assert refuse(site, GOOD, by=stranger) == "identity"
        forged = site.request(GOOD)
        with pytest.raises(Refused, match="identity"):
            site.relay().train(type(forged)(forged.statement, forged.sender, "00" * 64, b"x"))
    unknown, unsigned = lines
    assert (unknown["verified"], unknown["key"]) == (True, stranger.ledger.id)
    assert "coordinator" not in unknown
    assert "knows no such coordinator" in unknown["reason"]
    assert not unsigned["verified"]
    assert unsigned["outcome"] == "identity"
    assert unsigned["reason"]


@pytest.mark.parametrize("kind", [InputError, ValueError])
def test_a_round_that_fails_on_a_record_is_charged_and_quotes_nothing(
    site: Site,
    lines: list[dict[str, Any]],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[Exception],
) -> None:
    def fail(*_: Any) -> None:
        raise kind(SECRET)

    with serving(Policy.read(site.policy)):
        plan = site.plan()
        monkeypatch.setattr(TextClassification, "records", fail)
        assert refuse(site, plan) == "round-failed"  # whatever it was
    assert lines[-1]["charged"] > 0
    assert lines[-1]["reason"] in ("bad-input", "ValueError")
    assert SECRET not in caplog.text + json.dumps(lines)


@pytest.mark.parametrize("run", ["a\nevent=budget", "\x1b[2J", "x" * 200])
def test_a_name_from_outside_is_one_line_and_steers_no_terminal(
    site: Site, lines: list[dict[str, Any]], caplog: pytest.LogCaptureFixture, run: str
) -> None:
    site.office.run = run
    with serving(Policy.read(site.policy)):
        refuse(site, plans.plan(GOOD, noise_multiplier=0.5))
    messages = [record.getMessage() for record in caplog.records]
    assert all(message.isprintable() for message in messages)
    assert lines[-1].get("run", run) == run


def test_a_budget_that_the_policy_changes_leaves_a_line(
    site: Site, lines: list[dict[str, Any]]
) -> None:
    with serving(Policy.read(site.policy)):
        pass
    assert lines == []
    letters = ("datasets", "letters")
    site.write(((*letters, "epsilon"), 7.0))
    with serving(Policy.read(site.policy)):
        pass
    (line,) = lines
    assert (line["event"], line["before"], line["budget"]) == ("budget", 8.0, 7.0)
    assert line["account"] == "hospital-1/letters/record"
    assert line["reason"] == "the policy file says so"


def test_every_other_message_is_json_too() -> None:
    formatter = JsonLines()
    try:
        raise ValueError(SECRET)
    except ValueError:
        record = logging.LogRecord("x", 30, "f", 1, "a\n%s", ("b",), sys.exc_info())
    shown = json.loads(formatter.format(record))
    assert (shown["text"], shown["level"]) == ("a\nb", "warning")
    assert SECRET not in json.dumps(shown)
