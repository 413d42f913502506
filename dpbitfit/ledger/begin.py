"""New ledgers: those of a simulation, and the successor of a ledger that is lost."""

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from dpbitfit.accounting import composition
from dpbitfit.accounting.calibration import calibrate
from dpbitfit.accounting.mechanism import Counts, Mechanism
from dpbitfit.errors import LedgerError
from dpbitfit.ledger.heads import Heads
from dpbitfit.ledger.ledger import Ledger

LOST = "lost"  # the run under which a whole budget is counted as spent
ALONE = "made-by-a-run-alone.json"  # names the ledgers that only that run counts in
_FILES = ("", "-wal", "-shm", "-journal", ".lock")  # of a SQLite ledger


def coordinators_path(folder: Path) -> Path:
    """A simulation's ledger of the coordinator."""
    return folder / "coordinator.sqlite"


def site_path(folder: Path, site: str) -> Path:
    """The ledger of one of a simulation's sites, in the folder of all of them."""
    return folder / f"{quote(site, safe='')}.sqlite"


def alone(folder: Path, sites: Iterable[str]) -> None:
    """Make the ledgers of a simulation that counts alone, in place of an earlier such one's.

    Nothing else in ``folder`` is touched. Raises LedgerError where other ledgers are there.
    """
    made = _made_alone(folder)
    there = {coordinators_path(folder), *(folder / "sites").glob("*.sqlite")}
    if others := {path for path in there.difference(made) if path.exists()}:
        raise LedgerError(
            f"{min(others)}: it is there, and no run that counts alone has made it: give --ledger "
            f"{folder} for a run that adds up there, or another --out"
        )
    for path in made:
        _remove(path)
    simulation(folder, sites, lasting=False)


def simulation(folder: Path, sites: Iterable[str], lasting: bool = True) -> list[Path]:
    """Make the ledgers of a simulation that are new in ``folder``; returns their paths.

    Those that are not ``lasting`` may be replaced by the next run that counts ``alone``.
    Raises LedgerError for one that was there: a site is new where the coordinator has
    no account of it, and a coordinator where no site has a ledger.
    """
    coordinator, of_sites = coordinators_path(folder), folder / "sites"
    new = [path for site in sites if not (path := site_path(of_sites, site)).exists()]
    if not coordinator.exists():
        if any(of_sites.glob("*.sqlite")):
            raise LedgerError(f"{coordinator}: it is gone, and ledgers of its sites are there")
        new.append(coordinator)
    else:
        with Ledger(str(coordinator), readonly=True) as ledger:
            known = {site_path(of_sites, account.name.site) for account in ledger.accounts()}
        if lost := known.intersection(new):
            raise LedgerError(
                f"{min(lost)}: it is gone, and {coordinator} knows of it: put it back, or take "
                "another folder for records that no run has seen"
            )
    # First: should this be killed half-way, what it had made is known to be its own.
    _mark(folder, [] if lasting else [*_made_alone(folder), *new])
    for path in new:
        Ledger(str(path), create=True).database.close()
    return new


def _mark(folder: Path, made: Iterable[Path]) -> None:
    """Write down which ledgers here only one run counts in."""
    if names := sorted({str(path.relative_to(folder)) for path in made}):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ALONE).write_text(json.dumps(names))
    else:
        (folder / ALONE).unlink(missing_ok=True)


def _made_alone(folder: Path) -> list[Path]:
    """The ledgers here that only one run counts in."""
    try:
        names = json.loads((folder / ALONE).read_text())
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise LedgerError(f"{folder / ALONE} is damaged: give another --out") from error
    return [folder / name for name in names if Path(name).parent in (Path(), Path("sites"))]


def _remove(ledger: Path) -> None:
    for ending in _FILES:
        ledger.with_name(ledger.name + ending).unlink(missing_ok=True)
    if heads := Heads.beside(str(ledger)):
        heads.path.unlink(missing_ok=True)
        with suppress(OSError):  # it was never made, or more is in it
            heads.folder.rmdir()


def whole_budget(budget: float, delta: float) -> dict[str, Counts]:
    """A run that has spent an account's budget: what was spent in a lost ledger is unknown.

    One Gaussian release that costs just more than the budget, so that no plan fits before
    the budget is raised.
    """
    sigma = calibrate(budget, delta, 1.0, 1)
    while composition.epsilon({Mechanism(sigma, 1.0): 1}, delta).epsilon <= budget:
        sigma *= 0.99
    return {LOST: ((Mechanism(sigma, 1.0), 1),)}
