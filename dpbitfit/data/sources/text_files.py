"""Opening files of text: compression, encoding, and what is wrong, in words."""

import codecs
import gzip
import io
import zlib
from pathlib import Path
from typing import BinaryIO, TextIO, cast

# By the mark at the beginning; that of UTF-32 begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
UNREADABLE = (OSError, ValueError, EOFError, zlib.error)  # what reading such a file may raise
CONVERT = "convert it to UTF-8, as with: iconv -f WINDOWS-1252 -t UTF-8"


def is_compressed(path: str) -> bool:
    """Whether a file is one of gzip's, by its name."""
    return path.lower().endswith(".gz")


def open_bytes(path: str) -> BinaryIO:
    """A file's content, decompressed."""
    return cast(BinaryIO, gzip.open(path)) if is_compressed(path) else Path(path).open("rb")


def encoding(path: str) -> str:
    """UTF-8, unless a mark at the beginning says another."""
    with open_bytes(path) as file:
        start = file.read(4)
    return next((name for mark, name in _MARKS.items() if start.startswith(mark)), "utf-8-sig")


def open_text(path: str, errors: str, newline: str = "") -> TextIO:
    """A file's text, without a mark; ``errors`` and ``newline`` as for ``open``."""
    return io.TextIOWrapper(open_bytes(path), encoding(path), errors, newline)


def reason(error: Exception) -> str:
    """What is wrong, without the content that a parser's message may quote."""
    if isinstance(error, UnicodeError):
        return f"it is no Unicode text: {CONVERT}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "it is damaged"
