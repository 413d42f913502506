"""A safe copy of a ledger that is at work."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from dpbitfit.errors import DpbitfitError, InputError, LedgerError
from dpbitfit.ledger.reader import Reader
from dpbitfit.ledger.verify import check_whole


def back_up(ledger: Reader, out: Path) -> None:
    """Copy a SQLite ledger as it stands now to a new file, which is verified before it is there.

    The copy holds the signing key, and is its owner's alone. Raises InputError for a
    PostgreSQL ledger, or where ``out`` exists or cannot be written; LedgerError where
    the copy does not add up.
    """
    if not ledger.database.is_sqlite:
        raise InputError("a PostgreSQL ledger is backed up with its own tool: pg_dump")
    if out.is_dir():
        raise InputError(f"{out}: is a folder: name a file that is not there yet")
    draft = out.with_name(f"{out.name}.new")
    try:
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError as error:
        raise InputError(f"{draft}: cannot be written ({error.strerror})") from error
    try:
        with (
            closing(sqlite3.connect(str(ledger.database.url.database))) as source,
            closing(sqlite3.connect(draft)) as copy,
        ):
            source.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")  # one file, without a log beside it
        _verify(draft)
        with open(draft, "rb") as file:
            os.fsync(file.fileno())
        os.link(draft, out)  # never over a file that is there
    except sqlite3.Error as error:
        raise LedgerError(f"{ledger.database}: cannot be copied ({error})") from error
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror})") from error
    finally:
        draft.unlink()


def _verify(path: Path) -> None:
    try:
        with Reader(str(path), readonly=True) as copy:
            with copy.database.read() as connection:
                check_whole(connection)
            for account in copy.accounts():
                copy.verify(account)
    except DpbitfitError as error:
        raise LedgerError(f"the copy does not add up, and was removed: {error}") from error
