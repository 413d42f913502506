"""Opening a ledger's database, and transactions that are durable or did not happen.

SQLite (write-ahead log, ``synchronous=FULL``, ``BEGIN IMMEDIATE``) by path,
PostgreSQL by URL. On both, one transaction writes at a time and sees all that was
written before it, and a transaction that reads sees one moment.
"""

import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import exc

from dpbitfit.durable import leave_to_owner
from dpbitfit.errors import InputError, LedgerBusy, LedgerError
from dpbitfit.ledger.schema import REVISION, VERSION_TABLE

WAIT_SECONDS = 60  # for another process's transaction
POLL_SECONDS = 0.2
# PostgreSQL's advisory locks: of the process that runs rounds, of a transaction that writes.
_CLAIM_LOCK, _WRITE_LOCK = 0x64706269, 0x6470626A
_MIGRATIONS = Path(__file__).parent / "migrations"

_NONE_HERE = (
    "there is no ledger here. If there was one, put its newest backup back and run: dpbitfit "
    "ledger settle --rebase; if it is lost for good, count its budget as spent with: dpbitfit "
    "ledger init --lost; a first one is made with: dpbitfit ledger init"
)

RESTORE = "restore a backup, then run: dpbitfit ledger settle --rebase"
# What a database's error contains, and what an operator can do.
_ADVICE = (
    ("disk is full", "the disk is full: make room, then try again"),
    ("no space left", "the disk is full: make room, then try again"),
    ("readonly", "it may only be read: give this user the right to write it and its folder"),
    ("read-only", "it may only be read: give this user the right to write it and its folder"),
    ("permission denied", "this user may not use it: check its owner and mode"),
    ("unable to open", "it cannot be opened: check that its folder exists and who may write there"),
    ("not a database", f"it is damaged or no ledger: {RESTORE}"),
    ("malformed", f"it is damaged: {RESTORE}"),
    ("disk i/o error", "the disk cannot be written: check it, then try again"),
    ("lock timeout", "another process holds it: try again when that one has finished"),
    ("locked", "another process holds it: try again when that one has finished"),
    ("connection", "the database server does not answer: check it and the URL"),
)


class Database:
    """One ledger's database. Nothing is created unless ``create``; then its folder too.

    ``upgrade`` brings the tables of an older version to this one's form. Raises
    LedgerError where there is no ledger, where it cannot be used, where another
    process's transaction takes longer than ``wait_seconds``, and where it was
    made by a newer version.
    """

    def __init__(
        self,
        url: str,
        create: bool = False,
        readonly: bool = False,
        upgrade: bool = False,
        wait_seconds: float = WAIT_SECONDS,
    ) -> None:
        self._wait_seconds = wait_seconds
        self.url = _full_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._engine = self._connectable(create, readonly)
        with self._explained(), self.closed_on_failure():
            if create or (upgrade and self.revision is not None):
                self.migrate()
            self._check_revision()

    def __str__(self) -> str:
        return str(self.url.database) if self.is_sqlite else self.url.render_as_string()

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """One consistent view."""
        engine = self._isolated("REPEATABLE READ")
        with self._explained(), engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """One transaction: on disk when the block has ended, undone when it raises."""
        engine = self._isolated("READ COMMITTED").execution_options(dpbitfit_write=True)
        with self._explained(), engine.connect() as connection, connection.begin():
            if not self.is_sqlite:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_WRITE_LOCK)))
            yield connection

    @contextmanager
    def claim(self, wait_seconds: float = 0) -> Iterator[None]:
        """Be the only process that runs rounds on this ledger; a killed one lets go at once.

        Raises LedgerBusy when another process still holds it after ``wait_seconds``.
        """
        with self._lock() as attempt:
            deadline = time.monotonic() + wait_seconds
            while not attempt():
                if time.monotonic() >= deadline:
                    raise LedgerBusy(
                        f"{self}: another process runs rounds on this ledger; end it first"
                    )
                time.sleep(POLL_SECONDS)
            yield

    @contextmanager
    def _lock(self) -> Iterator[Callable[[], bool]]:
        """A way to try for the lock, which the block's end gives back."""
        if self.is_sqlite:
            path = Path(str(self.url.database)).resolve()  # through a link it is the same ledger
            with self._explained():
                descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
                leave_to_owner(descriptor, path)
            try:
                yield lambda: _flock(descriptor)
            finally:
                os.close(descriptor)
        else:
            with self._explained():
                # Not in a transaction: a server may end those that are idle for long.
                connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            try:
                yield lambda: bool(
                    connection.scalar(sa.select(sa.func.pg_try_advisory_lock(_CLAIM_LOCK)))
                )
            finally:
                connection.invalidate()  # the server gives the lock back with the session
                connection.close()

    def migrate(self) -> None:
        """Bring the tables to this version's form."""
        self._refuse_newer(self.revision)
        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS))
        with self.write() as connection:
            config.attributes["connection"] = connection
            try:
                command.upgrade(config, "head")
            except CommandError as error:
                raise LedgerError(f"{self}: its tables are of an unknown form") from error

    @property
    def revision(self) -> str | None:
        """The version of the tables; None where there are none."""
        with self.read() as connection:
            if not sa.inspect(connection).has_table(VERSION_TABLE):
                return None
            revision: str | None = connection.scalar(
                sa.select(sa.column("version_num")).select_from(sa.table(VERSION_TABLE))
            )
            return revision

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    @contextmanager
    def closed_on_failure(self) -> Iterator[None]:
        """Close every connection where the block raises: who opens it gets nothing to close."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _isolated(self, level: str) -> sa.Engine:
        """SQLite isolates transactions fully; PostgreSQL has to be told how much."""
        return (
            self._engine
            if self.is_sqlite
            else self._engine.execution_options(isolation_level=level)
        )

    def _check_revision(self) -> None:
        revision = self.revision
        if revision is None:
            raise LedgerError(f"{self}: {_NONE_HERE}")
        self._refuse_newer(revision)
        if revision != REVISION:
            raise LedgerError(
                f"{self}: its tables are of an older form; run: dpbitfit ledger migrate"
            )

    def _refuse_newer(self, revision: str | None) -> None:
        if revision is not None and revision > REVISION:
            raise LedgerError(
                f"{self}: made by a newer version of dpbitfit (tables {revision}, this one knows "
                f"{REVISION}): upgrade dpbitfit"
            )

    def _connectable(self, create: bool, readonly: bool) -> sa.Engine:
        if not self.is_sqlite:
            options = {"synchronous_commit": "on", "lock_timeout": f"{self._wait_seconds}s"}
            if readonly:
                options["default_transaction_read_only"] = "on"
            text = " ".join(f"-c {key}={value}" for key, value in options.items())
            return sa.create_engine(
                self.url,
                connect_args={
                    **{"options": text, "connect_timeout": 10},
                    "tcp_user_timeout": int(1000 * self._wait_seconds),  # of a server that hangs
                },
                pool_pre_ping=True,  # a connection that the server has closed is made anew
            )
        path = Path(str(self.url.database))
        if create:
            with self._explained():
                path.parent.mkdir(parents=True, exist_ok=True)
        elif not path.exists():
            raise LedgerError(f"{path}: {_NONE_HERE}")
        url = self.url
        if readonly:
            query = {"mode": "ro", "uri": "true"}
            if not os.access(path.parent, os.W_OK) and not Path(f"{path}-wal").exists():
                # No process is at work on it, and SQLite cannot make the files to read a log by.
                query["immutable"] = "1"
            url = url.set(database=f"file:{quote(str(path))}", query=query)
        engine = sa.create_engine(url, connect_args={"timeout": self._wait_seconds})
        sa.event.listen(engine, "connect", _prepare_readonly if readonly else self._prepare)
        sa.event.listen(engine, "begin", _begin)
        return engine

    def _prepare(self, connection: sqlite3.Connection, _record: Any) -> None:
        # SQLAlchemy begins transactions below; the driver must not begin its own.
        connection.isolation_level = None
        _write_ahead(connection, self._wait_seconds)
        for pragma in ("synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")
        with suppress(OSError):
            _, _, path = connection.execute("PRAGMA database_list").fetchone()
            os.chmod(path, 0o600)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except exc.IntegrityError as error:
            raise LedgerBusy(
                f"{self}: another process may have changed the same rows: try again; nothing was "
                "recorded"
            ) from error
        except (exc.SQLAlchemyError, OSError) as error:
            message = str(getattr(error, "orig", error)).lower()
            advice = next((text for word, text in _ADVICE if word in message), None)
            raise LedgerError(
                f"{self}: {advice or 'the database refused: see its log'}; nothing was recorded"
            ) from error


def _full_url(url: str) -> sa.URL:
    if "://" not in url:
        return sa.URL.create("sqlite", database=str(Path(url).absolute()))
    try:
        parsed = sa.make_url(url)
    except exc.ArgumentError as error:
        raise InputError("the ledger's URL cannot be read") from error
    if parsed.get_backend_name() == "sqlite" and not parsed.database:
        raise InputError("a ledger is kept in a file: give its path")
    backend = parsed.get_backend_name()
    if backend not in ("sqlite", "postgresql"):
        raise InputError(f"a ledger is SQLite or PostgreSQL, not {backend!r}")
    return parsed if backend == "sqlite" else parsed.set(drivername="postgresql+psycopg")


def _flock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write_ahead(connection: sqlite3.Connection, wait_seconds: float) -> None:
    """Turn the write-ahead log on, for which SQLite itself waits for no other process's writing."""
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorname.startswith("SQLITE_BUSY")
            if not busy or time.monotonic() >= deadline:
                raise
        time.sleep(POLL_SECONDS)


def _prepare_readonly(connection: Any, _record: Any) -> None:
    connection.isolation_level = None


def _begin(connection: sa.Connection) -> None:
    write = connection.get_execution_options().get("dpbitfit_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
