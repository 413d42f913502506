"""The monitor's own certificate, from its files; a renewal is used without a restart."""

import asyncio
import ssl
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any

import grpc

from dpbitfit.errors import InputError
from dpbitfit_monitor.files import Stamp, stamp

CHECK_SECONDS = 1.0  # between two checks of the files

_log = getLogger(__name__)


@dataclass(frozen=True)
class Tls:
    """PEM files: the server's certificate and key, and the authority of client certificates."""

    certificate: Path
    key: Path
    client_ca: Path

    def check(self) -> None:
        """InputError for files that are not a certificate and its key."""
        try:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.client_ca)
            context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise InputError(f"certificate, key or authority cannot be used: {error}") from error

    def for_grpc(self) -> grpc.ServerCredentials:
        """Credentials that require a client certificate, and present the server's newest."""

        def newest() -> Any:
            try:
                return self._for_grpc()
            except (InputError, OSError) as error:
                _log.warning("the last valid certificate stays in use: %s", error)
                return None

        return grpc.dynamic_ssl_server_credentials(
            self._for_grpc(), newest, require_client_authentication=True
        )

    async def keep_renewed(self, context: ssl.SSLContext) -> None:
        """Load certificate and key into a server's context whenever their files have changed."""
        loaded: list[Stamp | None] = []  # the files may have changed since the first load
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            stamps = [stamp(path) for path in (self.certificate, self.key)]
            if stamps == loaded:
                continue
            loaded = stamps
            try:
                self.check()  # a context keeps neither old nor new where the two do not fit
                context.load_cert_chain(self.certificate, self.key)
            except (InputError, OSError) as error:
                _log.warning("the last valid certificate stays in use: %s", error)
            else:
                _log.info("certificate in use from now on: %s", self.certificate)

    def _for_grpc(self) -> Any:
        self.check()
        pair = (self.key.read_bytes(), self.certificate.read_bytes())
        return grpc.ssl_server_certificate_configuration([pair], self.client_ca.read_bytes())
