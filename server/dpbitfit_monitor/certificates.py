"""When certificates expire."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class CertificateView:
    """A certificate: the file that holds it, its subject, and when it expires."""

    file: str
    subject: str
    not_after: datetime


def read_certificates(paths: Iterable[Path]) -> tuple[list[CertificateView], list[Path]]:
    """Every certificate of these PEM files, and of the .crt and .pem files of these folders.

    Second, the files from which no certificate can be read.
    """
    views: list[CertificateView] = []
    failed: list[Path] = []
    for file in (file for path in paths for file in _files(path)):
        try:
            certificates = x509.load_pem_x509_certificates(file.read_bytes())
        except (OSError, ValueError):
            failed.append(file)
            continue
        views += [
            CertificateView(file.name, _subject(certificate), certificate.not_valid_after_utc)
            for certificate in certificates
        ]
    return views, failed


def _files(path: Path) -> list[Path]:
    try:
        inside = sorted(path.iterdir())
    except OSError:  # not a folder, or not a readable one
        return [path]
    return [file for file in inside if file.suffix in (".crt", ".pem")]


def _subject(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else certificate.subject.rfc4514_string()
