"""A ledger that comes from a backup, or is gone: real processes, and the documented repair.

The site's processes are killed as an operator would do it, its files are put back,
and the commands are those that the errors name.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dpbitfit.accounting.mechanism import Counts
from dpbitfit.ledger import Ledger, peers

from ..support import warm
from ..support.federation import federation
from ..support.shallow import narrow_minilm
from .test_deployment import SITES, Field

pytestmark = pytest.mark.timeout(1800)

SITE, OTHER = SITES
STEPS = 2


class Operated(Field):
    """A federation and its operators: what they copy, put back, and type."""

    def try_run(self, name: str) -> bool:
        """A run of one round; whether the site took part, which the other one always does."""
        *_, report = self.run(name, **{"rounds": 1, "steps-per-round": STEPS})
        took_part = {site["name"] for site in report["sites"] if site["rounds"]}
        assert OTHER in took_part
        return SITE in took_part

    def type(self, *words: str) -> str:
        """What a command prints that an operator types; it succeeds."""
        done = self.attempt(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def attempt(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return warm.run(warm.MAIN, *words, timeout=300)

    def path(self, side: str) -> Path:
        sites = self.running.home / "sites"
        return self.running.home / "coordinator.sqlite" if not side else sites / f"{side}.sqlite"

    @property
    def state(self) -> Path:
        return Path(f"{self.path(SITE)}.state")

    def back_up(self, side: str, name: str) -> Path:
        copy = self.running.home / name
        self.type("ledger", "backup", "--ledger", str(self.path(side)), str(copy))
        return copy

    def put_back(self, side: str, copy: Path) -> None:
        """An operator's restore: nothing of the newer files stays."""
        if side:
            assert self.running.guards[side].stop() == 0
        else:
            self.coordinator.database.close()
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self.path(side)}{suffix}").unlink(missing_ok=True)
        shutil.copy(copy, self.path(side))

    def rebase(self, side: str, *words: str) -> Any:
        """What ``settle --rebase`` has done, by the command that the errors name."""
        if side:
            self.running.guards[side].stop()
        output = self.type(
            *("ledger", "settle", "--rebase", "--json", "--ledger", str(self.path(side))),
            *("--reason", "a backup was restored", *words),
        )
        self.type("ledger", "verify", "--ledger", str(self.path(side)))
        return json.loads(output)

    def settle_by_statements(self, *sites: str) -> None:
        """Both sides' operators hand each other what their ledgers hold."""
        home = self.running.home
        files = [home / f"{site}.statement" for site in sites]
        for site, file in zip(sites, files, strict=True):
            ask = ("ledger", "statement", site, "--out", str(file))
            self.type(*ask, "--ledger", str(self.path(site)))
        self.rebase("", *(word for file in files for word in ("--from", str(file))))
        for site in sites:
            file = home / f"for-{site}.statement"
            ask = ("ledger", "statement", site, "--out", str(file))
            self.type(*ask, "--ledger", str(self.path("")))
            self.rebase(site, "--from", str(file))
            self.running.guards[site].start()

    def refuses_to_start(self) -> str:
        """What the site's guard says when it does not start."""
        policy = self.path(SITE).with_suffix(".toml")
        done = self.attempt("guard", "serve", "--policy", str(policy))
        assert done.returncode == 4, done.stderr
        return " ".join(done.stderr.split())

    def counts(self, side: str) -> dict[str, Counts]:
        """The steps of each run that a ledger holds for the site."""
        ledger = Ledger(str(self.path(side)), readonly=True)
        (account,) = [one for one in ledger.accounts() if one.name.site == SITE]
        with ledger.database.read() as connection:
            result = dict(peers.runs_of(connection, account.id, self.coordinator.id))
        ledger.database.close()
        return result

    def check_nothing_is_missing(self, real: dict[str, Counts]) -> None:
        """Both records hold every run's real steps."""
        for side in (SITE, ""):
            assert not peers.lacking(real, self.counts(side))


@pytest.fixture(scope="module")
def field(project_config: dict[str, Any]) -> Iterator[Operated]:
    with federation() as running:
        warm.program(running.programs / "flwr-clientapp", warm.CLIENT_APP)
        yield Operated(running, project_config, letters=narrow_minilm())


def test_a_backup_that_was_restored_at_the_site(field: Operated) -> None:
    assert field.try_run("first")
    copy = field.back_up(SITE, "site.copy")
    first = set(field.counts(SITE))
    assert field.try_run("second")
    real = field.counts(SITE)
    assert len(real) == 2
    field.put_back(SITE, copy)
    assert "--state-directory" in field.refuses_to_start()
    shutil.rmtree(field.state)  # that too was lost: now only the coordinator can tell
    field.running.guards[SITE].start()
    assert field.counts(SITE) != real
    assert not field.try_run("turned-away")
    assert [one["rebased"] for one in field.rebase("")] == [True]
    assert not field.try_run("turned-away-too")  # the coordinator alone clears nothing
    (output,) = field.rebase(SITE)
    assert [(run["run"], run["steps"][0]["steps"]) for run in output["runs"]] == [
        (run, STEPS) for run in real.keys() - first
    ]
    field.running.guards[SITE].start()
    assert field.try_run("taken-back")
    field.check_nothing_is_missing(real)
    assert len(field.counts(SITE)) == 3


def test_a_backup_that_was_restored_at_the_coordinator(field: Operated) -> None:
    field.back_up("", "coordinator.copy")
    assert field.try_run("third")
    real = field.counts(SITE)
    field.put_back("", field.running.home / "coordinator.copy")
    field.settle_by_statements(OTHER)
    assert not field.try_run("turned-away-again")
    assert [one["rebased"] for one in field.rebase(SITE)] == [True]
    (output,) = field.rebase("")
    assert [run["steps"][0]["steps"] for run in output["runs"]] == [STEPS]
    field.running.guards[SITE].start()
    assert field.try_run("fourth")
    field.check_nothing_is_missing(real)


def test_backups_that_were_restored_at_both(field: Operated) -> None:
    real = field.counts(SITE)
    field.put_back(SITE, field.running.home / "site.copy")
    field.put_back("", field.running.home / "coordinator.copy")
    assert "backup was restored" in field.refuses_to_start()
    (output,) = field.rebase(SITE)  # the site knows by what it keeps beside its ledger
    assert not peers.lacking(real, field.counts(SITE))
    assert len(output["runs"]) == 4
    field.settle_by_statements(SITE, OTHER)
    assert field.try_run("fifth")
    field.check_nothing_is_missing(real)


def test_a_ledger_that_was_deleted_is_not_begun_anew(field: Operated) -> None:
    real = field.counts(SITE)
    assert field.running.guards[SITE].stop() == 0
    field.path(SITE).unlink()
    assert "ledger init" in field.refuses_to_start()
    assert not field.path(SITE).exists()
    field.path(SITE).touch()
    assert "there is no ledger here" in field.refuses_to_start()
    field.type("ledger", "init", "--ledger", str(field.path(SITE)))
    assert "that one was lost" in field.refuses_to_start()
    field.rebase(SITE)
    assert field.counts(SITE) == real
    field.running.guards[SITE].start()
    assert not field.try_run("turned-away-as-another")
    ledger = ("--ledger", str(field.path("")), "--reason", "by the alert alone")
    assert field.attempt("ledger", "settle", "--rebase", *ledger).returncode == 4
    file = field.running.home / "new.statement"
    field.type("ledger", "statement", SITE, "--ledger", str(field.path(SITE)), "--out", str(file))
    field.rebase("", "--from", str(file))
    assert field.try_run("sixth")
    field.check_nothing_is_missing(real)
