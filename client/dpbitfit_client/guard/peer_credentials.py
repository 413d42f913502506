"""A Unix socket that only some users may enter.

gRPC does not know the user at the other end of a local socket; the kernel does. So
the guard listens on a socket in a folder of its own, and this proxy, in front of
it, reads each peer's credentials from the kernel, and forwards the bytes of those
that may connect.
"""

import asyncio
import grp
import os
import pwd
import socket
import struct
import threading
from contextlib import suppress
from pathlib import Path

from dpbitfit.errors import InputError
from dpbitfit_client.policy.file_ownership import check_folder

MOST_CONNECTIONS = 32
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid
_BLOCK = 1 << 16


def refuse_second(path: Path) -> None:
    """InputError where a guard listens at ``path``."""
    if path.is_socket():
        with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
            probe.connect(str(path))
            raise InputError(f"{path}: a guard listens here already")


class PeerCredentialProxy:
    """Listens at ``path`` for members of ``group``, this user and root; ``inner`` is the guard's.

    Raises InputError where it cannot listen there, or another guard already does.
    """

    def __init__(self, path: Path, group: str, inner: Path) -> None:
        self._path, self._inner = path, inner
        self._group = _group(group)
        self._open = 0
        self._socket = self._listen()
        self._loop = asyncio.new_event_loop()
        self._closing = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="peer-credentials", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening, and end every connection."""
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()
        self._path.unlink(missing_ok=True)

    def may_enter(self, uid: int) -> bool:
        """Whether a user is this one or root, who may become this one, or a member of the group."""
        if uid in (0, os.geteuid()):
            return True
        try:
            user = pwd.getpwuid(uid)
        except KeyError:
            return False
        return self._group.gr_gid in os.getgrouplist(user.pw_name, user.pw_gid)

    def _listen(self) -> socket.socket:
        check_folder(self._path.parent)  # else they could put a socket of their own in its place
        refuse_second(self._path)
        if self._path.is_socket():
            with suppress(OSError):  # of a killed guard; where it stays, bind fails
                self._path.unlink()
        listening = socket.socket(socket.AF_UNIX)
        try:
            before = os.umask(0o177)
            try:
                listening.bind(str(self._path))
            finally:
                os.umask(before)
            os.chown(self._path, -1, self._group.gr_gid)
            os.chmod(self._path, 0o660)
            listening.listen(MOST_CONNECTIONS)
        except OSError as error:
            listening.close()
            raise InputError(f"{self._path}: cannot listen here ({error.strerror})") from error
        return listening

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:  # ends what is left, too
            runner.run(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_unix_server(self._forward, sock=self._socket)
        await self._closing.wait()
        server.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from its credentials to its end."""
        arrived: socket.socket = writer.get_extra_info("socket")
        credentials = arrived.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, uid, _ = _CREDENTIALS.unpack(credentials)
        self._open += 1
        try:
            if self._open <= MOST_CONNECTIONS and self.may_enter(uid):
                inner, out = await asyncio.open_unix_connection(str(self._inner))
                await asyncio.gather(_pump(reader, out), _pump(inner, writer))
        except (OSError, asyncio.CancelledError):
            pass  # either side may go at any time, and so may this proxy
        finally:
            self._open -= 1
            writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while block := await reader.read(_BLOCK):
            writer.write(block)
            await writer.drain()
    finally:
        writer.close()


def _group(name: str) -> grp.struct_group:
    try:
        return grp.getgrnam(name)
    except KeyError as error:
        raise InputError(f"there is no Unix group {name!r}: make it, or name another") from error
