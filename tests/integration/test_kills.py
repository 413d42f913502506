"""Processes of a running simulation are killed; afterwards both ledgers tell the truth.

``DPBITFIT_KILLS`` sets how many kills there are: 2 of them in a usual test run.
"""

import json
import os
import random
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from dp_accounting import dp_event
from dp_accounting.pld import PLDAccountant

from dpbitfit.errors import InputError
from dpbitfit.ledger import Ledger
from dpbitfit.ledger.fold import Allotment

from ..support.shallow import narrow_minilm
from .test_simulation import command

KILLS = int(os.environ.get("DPBITFIT_KILLS", "2"))
ROUNDS, SITES = 6 + KILLS, 2
# A worker that runs sites; Flower starts no other in its place. Then the process with the server.
VICTIMS = ("ClientAppActor", "flwr-simulation")


@pytest.mark.timeout(600 + 120 * KILLS)
def test_killed_processes_lose_no_event_and_double_none(tmp_path: Path) -> None:
    data, out, folder = tmp_path / "messages.csv", tmp_path / "out", tmp_path / "ledgers"
    subprocess.run(command("corpus", str(data), "--records", "120"), check=True)
    arguments = [
        *("simulate", "--data", str(data), "--out", str(out), "--ledger", str(folder)),
        *("--labels", str(data.with_suffix(".labels.txt")), "--sites", str(SITES)),
        *("--phases", "class-sums,head,biases", "--most-rounds", str(ROUNDS), "--rounds", "4"),
        *("--steps-per-round", "1", "--sampling-rate", "0.3"),
        *("--model", narrow_minilm(), "--max-length", "24", "--test-fraction", "0.5"),
        *("--resume", "--json"),
    ]
    dice = random.Random()
    seen: dict[str, list[str]] = {}
    killed = []
    for _ in range(KILLS + 3):
        run = subprocess.Popen(
            command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        while run.poll() is None and len(killed) < KILLS:
            if kill_one(run, VICTIMS[len(killed) % 2], dice, out):
                killed.append(len(killed))
            seen = check_nothing_lost(folder, seen)
        answer, _ = run.communicate()
        seen = check_nothing_lost(folder, seen)
        if run.returncode == 0:
            break
    assert run.returncode == 0, (out / "flower.log").read_text()[-2000:]
    assert len(killed) == KILLS
    check_figures(json.loads(answer), folder)


def kill_one(run: "subprocess.Popen[str]", victim: str, dice: random.Random, out: Path) -> bool:
    """Kill -9 a process of the run at a random instant of its rounds; False where none was left."""
    began = time.time()
    while not is_fresh(out / "progress.jsonl", began - 30):
        if run.poll() is not None or time.time() - began > 180:
            return False
        time.sleep(0.1)
    time.sleep(dice.uniform(0, 4))
    family = [p for p in psutil.process_iter() if named(p, victim) and of_this_run(p, run.pid)]
    if not family or run.poll() is not None:
        return False
    with suppress(psutil.NoSuchProcess):
        dice.choice(family).send_signal(signal.SIGKILL)
    if victim == VICTIMS[1]:
        # Flower waits a minute and more for a server that is gone; a user who sees it does not.
        run.send_signal(signal.SIGINT)
        run.wait(120)
    return True


def is_fresh(path: Path, since: float) -> bool:
    with suppress(FileNotFoundError):
        return path.stat().st_mtime > since
    return False


def named(process: psutil.Process, victim: str) -> bool:
    with suppress(psutil.Error):
        return victim in " ".join(process.cmdline())
    return False


def of_this_run(process: psutil.Process, pid: int) -> bool:
    """Whether the process lives in a folder that a child of the run lives in."""
    with suppress(psutil.Error):
        homes = {child.cwd() for child in psutil.Process(pid).children(recursive=True)}
        home = process.environ().get("FLWR_HOME", "")
        return home in homes or process.cwd() in homes
    return False


def ledgers(folder: Path) -> list[Ledger]:
    paths = [folder / "coordinator.sqlite", *sorted((folder / "sites").glob("*.sqlite"))]
    return [Ledger(str(path), readonly=True) for path in paths if path.exists()]


def check_nothing_lost(folder: Path, before: dict[str, list[str]]) -> dict[str, list[str]]:
    """Every chain begins with what was seen of it before, and adds up."""
    now = {}
    with suppress(InputError):
        for ledger in ledgers(folder):
            for account in ledger.accounts():
                place = f"{ledger.database} {account.name}"
                now[place] = [event.hash for event in ledger.events(account.name)]
                ledger.verify(account)
            ledger.database.close()
    for place, hashes in before.items():
        assert now.get(place, [])[: len(hashes)] == hashes
    return now


def check_figures(report: dict[str, Any], folder: Path) -> None:
    coordinator, *sites = ledgers(folder)
    assert len(sites) == SITES
    assert not coordinator.reservations()
    for ledger in sites:
        (account,) = ledger.accounts()
        theirs = coordinator.account(account.name)
        held = coordinator.allotments([theirs.id])[theirs.id]
        assert len(held) == 3  # a mechanism for each phase
        assert sum(at_server.allotted for at_server in held.values()) == ROUNDS
        for place, at_server in held.items():
            # A site whose worker was dead from the start was never asked.
            mine = ledger.allotments([account.id])[account.id].get(place, Allotment())
            assert mine.reserved == 0
            # What the site did is in the coordinator's record; beyond it are the unknown rounds.
            assert mine.committed <= at_server.committed <= at_server.allotted
        done = {r.key for r in ledger.reservations(state="committed") if r.outcome == "reply"}
        recorded = [
            r.key
            for r in coordinator.reservations(state="committed")
            if r.account_id == theirs.id and r.outcome == "reply"
        ]
        assert set(recorded) <= done
        accountant = PLDAccountant()
        for (_, mechanism), at_server in held.items():
            step = dp_event.PoissonSampledDpEvent(
                mechanism.sampling_rate, dp_event.GaussianDpEvent(mechanism.noise_multiplier)
            )
            accountant.compose(step, at_server.committed)
        output = next(s for s in report["sites"] if s["name"] == account.name.site)
        assert output["accrued"] == pytest.approx(accountant.get_epsilon(1e-5), abs=0.05)
