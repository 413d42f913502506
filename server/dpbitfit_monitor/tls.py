"""The monitor's own certificate, from its files; a renewed one is taken up without a restart."""

import asyncio
import ssl
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any

import grpc

from dpbitfit.errors import InputError

LOOK_SECONDS = 1.0  # from one look at the files to the next
_Stamp = tuple[int, int, int]  # a file's number, time and size: no two versions share all three

_log = getLogger(__name__)


@dataclass(frozen=True)
class Tls:
    """PEM files: the server's certificate and key, and who signs its clients' certificates."""

    certificate: Path
    key: Path
    client_ca: Path

    def check(self) -> None:
        """InputError for files that are no certificate and key."""
        try:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.client_ca)
            context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise InputError(f"certificate, key or authority cannot be used: {error}") from error

    def for_grpc(self) -> grpc.ServerCredentials:
        """Credentials that ask every client for a certificate, and show the newest of ours."""

        def newest() -> Any:
            try:
                return self._for_grpc()
            except (InputError, OSError) as error:
                _log.warning("the last good certificate goes on: %s", error)
                return None

        return grpc.dynamic_ssl_server_credentials(
            self._for_grpc(), newest, require_client_authentication=True
        )

    async def keep_renewed(self, context: ssl.SSLContext) -> None:
        """Load certificate and key into a server's context whenever their files have changed."""
        seen: list[_Stamp | None] = []  # what was loaded first may have changed by now
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if (stamps := self._stamps()) == seen:
                continue
            seen = stamps
            try:
                self.check()  # a context keeps neither old nor new where the two do not fit
                context.load_cert_chain(self.certificate, self.key)
            except (InputError, OSError) as error:
                _log.warning("the last good certificate goes on: %s", error)
            else:
                _log.info("in use from now on: %s", self.certificate)

    def _for_grpc(self) -> Any:
        self.check()
        pair = (self.key.read_bytes(), self.certificate.read_bytes())
        return grpc.ssl_server_certificate_configuration([pair], self.client_ca.read_bytes())

    def _stamps(self) -> list[_Stamp | None]:
        return [_stamp(path) for path in (self.certificate, self.key)]


def _stamp(path: Path) -> _Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
