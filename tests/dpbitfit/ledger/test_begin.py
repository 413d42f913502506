"""A simulation's ledgers: made on first use, and never in the place of one that was there."""

from pathlib import Path

import pytest

from dpbitfit.errors import LedgerError
from dpbitfit.ledger import AccountName, Ledger, begin

SITES = ("site-1", "north/wing")


def test_a_new_folder_gets_every_ledger_once(tmp_path: Path) -> None:
    made = begin.simulation(tmp_path, SITES)
    assert len(made) == 3
    ids = {Ledger(str(path)).id for path in made}
    assert len(ids) == 3
    assert begin.simulation(tmp_path, SITES) == []
    assert begin.simulation(tmp_path, (*SITES, "site-3")) == [tmp_path / "sites/site-3.sqlite"]
    assert ids == {Ledger(str(path)).id for path in made}


def test_one_that_was_there_is_missed(tmp_path: Path) -> None:
    begin.simulation(tmp_path, ("site-1", "site-2"))
    coordinator = begin.coordinators_path(tmp_path)
    ledger = Ledger(str(coordinator))
    ledger.open_account(AccountName("site-1", "records", "record"), 1e-5, 8.0)
    ledger.database.close()
    gone = begin.site_path(tmp_path / "sites", "site-1")
    gone.unlink()
    with pytest.raises(LedgerError, match=r"it is gone, and .* knows of it"):
        begin.simulation(tmp_path, ("site-1", "site-2"))
    assert not gone.exists()
    coordinator.unlink()
    with pytest.raises(LedgerError, match="it is gone, and ledgers of its sites"):
        begin.simulation(tmp_path, ("site-2",))
    assert not coordinator.exists()
