"""Until when certificates are good."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import NameOID

from dpbitfit.errors import InputError


@dataclass(frozen=True)
class CertificateView:
    """A certificate: the file that holds it, whom it names, and when it ends."""

    file: str
    subject: str
    not_after: datetime


def read_certificates(paths: Iterable[Path]) -> tuple[CertificateView, ...]:
    """Every certificate of these PEM files, and of the .crt and .pem files of these folders.

    Raises InputError for a file that cannot be read.
    """
    found = []
    for path in paths:
        files = [path]
        if path.is_dir():
            files = sorted(one for one in path.iterdir() if one.suffix in (".crt", ".pem"))
        for file in files:
            try:
                certificates = x509.load_pem_x509_certificates(file.read_bytes())
            except (OSError, ValueError) as error:
                raise InputError(f"{file}: there is no certificate to be read here") from error
            found += [
                CertificateView(file.name, _subject(one), one.not_valid_after_utc)
                for one in certificates
            ]
    return tuple(found)


def _subject(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else certificate.subject.rfc4514_string()
