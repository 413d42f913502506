"""Files that root makes for the user who has to use them."""

import os
from pathlib import Path

import pytest

from dpbitfit import durable
from dpbitfit.ledger import Ledger


@pytest.mark.skipif(os.geteuid() != 0, reason="to be run as root")
def test_what_root_writes_stays_its_folders_owners(tmp_path: Path) -> None:
    """A ledger that root has settled is the guard's to go on with."""
    ledger = Ledger(str(tmp_path / "site.sqlite"), create=True)
    folder = tmp_path / "state"
    folder.mkdir()
    for path in (folder, tmp_path, tmp_path / "site.sqlite"):
        os.chown(path, 12345, 12345)
    durable.replace(folder / "heads.json", b"{}")
    with ledger.claim():
        pass
    ledger.database.close()
    for path in (folder / "heads.json", tmp_path / "site.sqlite.lock"):
        assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (12345, 0o600)
