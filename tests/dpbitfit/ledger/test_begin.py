"""A simulation's ledgers: made on first use, and never in the place of one that was there."""

import json
from pathlib import Path

import pytest

from dpbitfit.errors import LedgerError
from dpbitfit.ledger import AccountName, Ledger, begin
from dpbitfit.ledger.heads import Heads

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


def test_a_run_alone_takes_the_place_of_an_earlier_one_and_of_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "ledger"
    begin.alone(folder, SITES)
    coordinator = begin.coordinators_path(folder)
    first, size = Ledger(str(coordinator)).id, len(files(folder))
    for ledger in (coordinator, begin.site_path(folder / "sites", "site-1")):
        Heads(Path(f"{ledger}.state")).write(Ledger(str(ledger)))
    mine = [folder / "x", folder / "sites" / "notes.txt", Path(f"{coordinator}.state") / "y"]
    for path in mine:
        path.write_text("mine")
    begin.alone(folder, ("site-9",))
    assert Ledger(str(coordinator), readonly=True).id != first
    assert [path.read_text() for path in mine] == ["mine"] * 3
    assert len(files(folder)) == size - 1 + len(mine)
    assert begin.site_path(folder / "sites", "site-9").exists()


@pytest.mark.parametrize("path", ["x", "sites/notes.txt", "sites/deep/x.sqlite"])
def test_files_of_others_stay_where_a_run_alone_keeps_its_ledgers(
    path: str, tmp_path: Path
) -> None:
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text("mine")
    for _ in range(2):
        begin.alone(tmp_path, SITES)
    assert (tmp_path / path).read_text() == "mine"


@pytest.mark.parametrize("taken_over", [False, True], ids=["lasting", "taken over"])
def test_ledgers_in_which_runs_add_up_are_refused_not_removed(
    taken_over: bool, tmp_path: Path
) -> None:
    if taken_over:
        begin.alone(tmp_path, SITES)
    begin.simulation(tmp_path, SITES)
    before = contents(tmp_path)
    with pytest.raises(LedgerError, match="no run that counts alone has made it: give --ledger"):
        begin.alone(tmp_path, SITES)
    assert contents(tmp_path) == before


def test_only_a_ledger_that_is_its_own_is_removed(tmp_path: Path) -> None:
    """A site's ledger of others beside ours, and a mark that names what is elsewhere."""
    begin.alone(tmp_path / "ledger", SITES)
    outside = tmp_path / "other.sqlite"
    Ledger(str(outside), create=True).database.close()
    mark = tmp_path / "ledger" / begin.ALONE
    mark.write_text(json.dumps([*json.loads(mark.read_text()), "../other.sqlite", str(outside)]))
    begin.alone(tmp_path / "ledger", SITES)
    assert outside.exists()
    mark.write_text("{")
    with pytest.raises(LedgerError, match="damaged"):
        begin.alone(tmp_path / "ledger", SITES)


def test_a_resumed_run_alone_keeps_its_ledgers_and_their_mark(tmp_path: Path) -> None:
    begin.alone(tmp_path, SITES)
    first = Ledger(str(begin.coordinators_path(tmp_path))).id
    assert begin.simulation(tmp_path, (*SITES, "site-3"), lasting=False)
    assert Ledger(str(begin.coordinators_path(tmp_path))).id == first
    begin.alone(tmp_path, SITES)
    assert not begin.site_path(tmp_path / "sites", "site-3").exists()


def files(folder: Path) -> list[Path]:
    """The files in it, but for those that SQLite keeps beside an open database."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(("-wal", "-shm"))
    ]


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in files(folder)}
