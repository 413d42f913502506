"""New ledgers: those of a simulation, and the successor of a ledger that is lost."""

from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from dpbitfit.accounting import composition
from dpbitfit.accounting.calibration import calibrate
from dpbitfit.accounting.composition import Mechanism
from dpbitfit.errors import LedgerError
from dpbitfit.ledger.account import Account
from dpbitfit.ledger.ledger import Ledger

LOST = "lost"  # the run under which a whole budget is counted as spent


def coordinators_path(folder: Path) -> Path:
    """A simulation's ledger of the coordinator."""
    return folder / "coordinator.sqlite"


def site_path(folder: Path, site: str) -> Path:
    """The ledger of one of a simulation's sites, in the folder of all of them."""
    return folder / f"{quote(site, safe='')}.sqlite"


def simulation(folder: Path, sites: Iterable[str]) -> list[Path]:
    """Make the ledgers of a simulation that are new in ``folder``; returns their paths.

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
    for path in new:
        Ledger(str(path), create=True).database.close()
    return new


def write_off(ledger: Ledger, account: Account, reason: str) -> None:
    """Count an account's whole budget as spent: what was spent in a lost ledger is unknown.

    It is recorded as one Gaussian release that costs just more than the budget, so that
    no plan fits before the budget is raised.
    """
    sigma = calibrate(account.budget, account.delta, 1.0, 1)
    while composition.epsilon({Mechanism(sigma, 1.0): 1}, account.delta).epsilon <= account.budget:
        sigma *= 0.99
    ledger.rebase(account.name, {LOST: ((Mechanism(sigma, 1.0), 1),)}, "", reason)
